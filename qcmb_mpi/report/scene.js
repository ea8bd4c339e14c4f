"use strict";
// Turns the pictures of class "scene": every element in them carries its positions in data-p.
for (const svg of document.querySelectorAll("svg.scene")) {
  const group = svg.querySelector("g");
  const shapes = [...svg.querySelectorAll("[data-p]")].map(
    (element) => ({ element, p: element.dataset.p.split(" ").map(Number), z: 0 }));
  const balls = shapes.filter((shape) => shape.element.parentNode === group);
  const start = [1, 0, 0, 0, 1, 0, 0, 0, 1];
  let turn = start, last = null, isWaiting = false;

  const times = (a, b) => start.map((_, k) => {
    const i = 3 * Math.floor(k / 3), j = k % 3;
    return a[i] * b[j] + a[i + 1] * b[j + 3] + a[i + 2] * b[j + 6];
  });
  const at = ([x, y, z]) => [0, 3, 6].map((i) => turn[i] * x + turn[i + 1] * y + turn[i + 2] * z);

  function draw() {
    isWaiting = false;
    for (const shape of shapes) {
      const [x, y, z] = at(shape.p), set = (name, value) =>
        shape.element.setAttribute(name, value.toFixed(1));
      shape.z = z;
      if (shape.element.tagName === "line") {
        const [x2, y2, z2] = at(shape.p.slice(3));
        set("x1", x); set("y1", -y); set("x2", x2); set("y2", -y2);
        shape.z = (z + z2) / 2;
      } else {
        const isBall = shape.element.tagName === "circle";
        set(isBall ? "cx" : "x", x); set(isBall ? "cy" : "y", -y);
      }
    }
    balls.sort((a, b) => a.z - b.z);
    group.append(...balls.map((shape) => shape.element));
  }

  function turnBy(right, down) {
    const [a, b] = [right, down], [ca, sa, cb, sb] =
      [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b)];
    turn = times(times([1, 0, 0, 0, cb, -sb, 0, sb, cb], [ca, 0, sa, 0, 1, 0, -sa, 0, ca]), turn);
    if (!isWaiting) requestAnimationFrame(draw);
    isWaiting = true;
  }

  svg.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!last) return;
    turnBy((event.clientX - last[0]) / 120, (event.clientY - last[1]) / 120);
    last = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) {
    svg.addEventListener(name, () => { last = null; });
  }
  svg.addEventListener("dblclick", () => { turn = start; turnBy(0, 0); });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!(event.key in step)) return;
    event.preventDefault();
    turnBy(...step[event.key].map((each) => each / 8));
  });
}
