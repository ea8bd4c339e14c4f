"""What comes out of the store is what went in, bit by bit, in canonical order."""

from __future__ import annotations

import math
import sqlite3
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcmb_mpi.errors import StoreError
from qcmb_mpi.expansion.assembly import ComponentValues, assemble
from qcmb_mpi.expansion.plan import TaskSpace
from qcmb_mpi.scheduling.policy import ErrorClass
from qcmb_mpi.store import Store, dense
from qcmb_mpi.store import codec as store_codec
from qcmb_mpi.store import values as store_values
from qcmb_mpi.store.codec import BlockKey, Ints
from qcmb_mpi.store.tables import GRADIENT, HESSIAN
from tests.edge.store_cases import energy_of, make_failure, make_outcome, make_space, n_atoms_of

finite = st.floats(allow_nan=False, allow_infinity=False)
keys = st.builds(BlockKey, st.text("0123456789abcdef"), st.integers(1, 400), st.integers(1, 400))


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open(None) as opened:
        yield opened


def filled(store: Store, space: TaskSpace, *, seed: int = 0, portion: int = 3) -> ComponentValues:
    """Append all tasks in random order and portions."""
    store.attach(0, space)
    order = np.random.default_rng(seed).permutation(space.n_tasks)
    for part in np.array_split(order, max(1, len(order) // portion)):
        store.append([make_outcome(space, int(task)) for task in part])
    return store.values(0)


@pytest.mark.parametrize("driver", ["energy", "gradient", "hessian"])
@pytest.mark.parametrize("bsse", [("nocp",), ("vmfc", "cp")])
def test_all_values_come_back_bit_by_bit_in_canonical_order(
    store: Store, driver: str, bsse: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_values, "_PAGE_ROWS", 4)
    monkeypatch.setattr(store_values, "_PAGE_BYTES", 5000)
    space = make_space(3, bsse, driver=driver)
    values = filled(store, space)
    names = {"energy": (), "gradient": ("gradient",), "hessian": ("gradient", "hessian")}[driver]
    assert values.properties == {"energy", *names}
    for block in space.blocks:
        expected = [make_outcome(space, task) for task in block.ids]
        assert values.energies(block).tolist() == [outcome.energy_hartree for outcome in expected]
        for name in names:
            pages = list(values.arrays(block, name))
            ranks = np.concatenate([ranks for ranks, _ in pages])
            assert ranks.tolist() == list(range(block.n_tasks))
            arrays = [array for _, arrays in pages for array in arrays]
            for array, outcome in zip(arrays, expected, strict=True):
                assert array.tobytes() == getattr(outcome, name).tobytes()
                assert array.shape == getattr(outcome, name).shape
                assert array.flags.writeable
    assert store.done(0).tolist() == list(range(space.n_tasks))


@pytest.mark.parametrize("driver", ["energy", "gradient"])
def test_all_rows_of_a_complete_block_are_read_without_their_ranks(
    store: Store, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "PAGE_ROWS", 4)
    space = make_space(3, driver=driver)
    values = filled(store, space)
    has_energy = [make_outcome(space, task).energy_hartree for task in range(space.n_tasks)]

    def refuse(*_: object) -> None:
        raise AssertionError("rows were decoded one by one")

    monkeypatch.setattr(store_values, "decode_rows", refuse)
    for block in space.blocks:
        found = values.energies(block).tolist()
        assert found == [has_energy[task] for task in block.ids]
    assert store.done(0).tolist() == list(range(space.n_tasks))


def test_complete_blocks_without_energies_are_read_too(store: Store) -> None:
    space = make_space(driver="gradient")
    store.attach(0, space)
    ids = range(space.n_tasks)
    store.append([make_outcome(space, task, energy_hartree=None) for task in ids])
    assert store.values(0).properties == {"gradient"}
    assert np.isnan(store.values(0).energies(space.blocks[1], allow_missing=True)).all()
    assert store.done(0).tolist() == list(ids)


@pytest.mark.parametrize("odd", [0, 3, 4, 9])
def test_from_an_odd_page_on_rows_are_decoded_one_by_one(
    store: Store, odd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "PAGE_ROWS", 4)
    monkeypatch.setattr(store_values, "_PAGE_ROWS", 4)
    space = make_space()
    values = filled(store, space)
    decode = dense.decode_run

    def stopping(key: BlockKey, ranks: Ints, rows: list[tuple[object, ...]]) -> object:
        return None if odd in ranks else decode(key, ranks, rows)

    monkeypatch.setattr(dense, "decode_run", stopping)
    pairs = space.blocks[1]
    expected = [make_outcome(space, task).energy_hartree for task in pairs.ids]
    assert values.energies(pairs).tolist() == expected


def test_assembly_from_the_store_does_not_depend_on_the_order_of_arrival() -> None:
    space = make_space(3, ("nocp", "cp"), driver="gradient")
    numbers = []
    for seed in range(3):
        with Store.open(None) as store:
            numbers.append(assemble(space, filled(store, space, seed=seed, portion=seed + 1)))
    energies = {result.ret["energy"] for result in numbers}  # type: ignore[type-var]
    assert len(energies) == 1
    gradients = {np.asarray(result.ret["gradient"]).tobytes() for result in numbers}
    assert len(gradients) == 1


def test_properties_are_those_that_every_task_has(store: Store) -> None:
    space = make_space(driver="gradient")
    store.attach(0, space)
    n = space.n_tasks
    store.append([make_outcome(space, task) for task in range(n - 1)])
    assert store.values(0).properties == frozenset()
    hessian = np.eye(3 * n_atoms_of(space, n - 1))
    store.append([make_outcome(space, n - 1, hessian=hessian, energy_hartree=None)])
    assert store.values(0).properties == {"gradient"}
    with pytest.raises(StoreError, match="1 of 10 results of hf with 2 real and 2 basis"):
        store.values(0).energies(space.blocks[1])


@pytest.mark.parametrize("missing", [0, 3, 4])
def test_missing_results_are_never_passed_over(store: Store, missing: int) -> None:
    space = make_space(driver="gradient")
    store.attach(0, space)
    store.append([make_outcome(space, task) for task in range(space.n_tasks) if task != missing])
    store.append([make_failure(space, missing)])
    values = store.values(0)
    with pytest.raises(StoreError, match=r"1 of 5 results .* run the same command again"):
        values.energies(space.blocks[0])
    with pytest.raises(StoreError, match=r"of 5 results .* are missing"):
        list(values.arrays(space.blocks[0], "gradient"))


def test_nothing_is_there_before_anything_is_written(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    assert store.done(0).tolist() == []
    assert store.values(0).properties == frozenset()
    assert (list(store.records(0)), store.failures(0), store.counts()) == ([], [], [])
    assert store.rows(0).host.tolist() == []
    with pytest.raises(StoreError, match="5 of 5 results"):
        store.values(0).energies(space.blocks[0])


def test_records_come_back_by_task(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    texts = {task: b'{"id": %d}' % task * 500 for task in (9, 2, 14, 0)}
    store.append([make_outcome(space, task, record=text) for task, text in texts.items()])
    assert list(store.records(0)) == sorted(texts.items())


def test_rows_say_when_and_where(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    store.append([make_outcome(space, 5), make_failure(space, 3), make_outcome(space, 0)])
    store.append([make_outcome(space, 14, start_s=math.nan)])
    rows = store.rows(0)
    assert rows.tasks.tolist() == [0, 3, 5, 14]
    assert rows.start_s[:3].tolist() == [1.7e9, 1.7e9 + 3, 1.7e9 + 5]
    assert math.isnan(rows.start_s[3])
    assert rows.seconds.tolist() == [0.25, 3.25, 5.25, 14.25]
    assert rows.cpu_s.tolist() == [0.125] * 4
    assert rows.peak_bytes.tolist() == [80_000_000] * 4
    assert rows.host.tolist() == ["node0", "node1", "node1", "node0"]
    assert rows.rank.tolist() == [0, 0, 2, 2]
    assert rows.slot.tolist() == [0, 1, 1, 0]
    assert rows.n_threads.tolist() == [2] * 4
    assert set(rows.program) | set(rows.version) == {"toy", "1.0"}
    assert rows.is_done.tolist() == [True, False, True, True]
    assert rows.attempts.tolist() == [1] * 4


def test_an_error_class_of_another_version_is_unknown() -> None:
    failure = store_codec.decode_failure("NOT_YET_KNOWN", "type", "message", "tail")
    assert failure.error_class is ErrorClass.UNKNOWN


def test_negative_zero_is_stored_as_zero(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    store.append([make_outcome(space, task, energy_hartree=-0.0) for task in range(5)])
    energies = store.values(0).energies(space.blocks[0])
    assert not np.signbit(energies).any()


def test_ranks_beyond_32_bits_are_kept(store: Store) -> None:
    space = make_space(9, sizes=(1,) * 120)
    task = space.n_tasks - 7
    store.attach(0, space)
    store.append([make_outcome(space, task)])
    assert task > 2**40
    assert store.done(0).tolist() == [task]
    assert store.rows(0).tasks.tolist() == [task]


def test_the_shell_view_reads_like_a_table(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    store.append([make_outcome(space, 1), make_failure(space, 2)])
    store.flush()
    columns = "label, program, method, basis, n_real, rank, status, energy, host, started, message"
    rows = store._connection.query(f"SELECT {columns} FROM result ORDER BY rank", ())
    first = ("hf", "toy", "hf", "sto-3g", 1, 1, "done", energy_of(space, 1), "node1")
    assert rows[0] == (*first, "2023-11-14 22:13:21", None)
    assert rows[1][5:8] == (2, "failed", None)


def test_the_specification_is_stored_for_people(store: Store) -> None:
    space = make_space()
    store.attach(0, space)
    store.append([make_outcome(space, 1)])
    store.flush()
    query = "SELECT json_extract(input, '$.molecule.fragment_sizes'), "
    query += "json_extract(input, '$.specification.keywords.scf') FROM specification"
    assert store._connection.query(query, ()) == [("[1,2,1,3,2]", 1e-8)]


# ------------------------------------------------------------------------------- checksums


def test_checksums_are_as_documented(store: Store) -> None:
    space = make_space(driver="gradient")
    store.attach(0, space)
    store.append([make_outcome(space, 7), make_outcome(space, 8, energy_hartree=None)])
    store.flush()
    sql = "SELECT fingerprint, n_real, n_basis, c.rank, energy, kinds, c.checksum, kind, data, "
    sql += "p.checksum FROM component c JOIN payload p USING (block, rank) "
    sql += "JOIN block b ON b.id = block JOIN specification s ON s.id = b.specification"
    rows = store._connection.query(sql, ())
    assert len(rows) == 2
    for name, n_real, n_basis, rank, energy, kinds, checksum, kind, data, other in rows:
        seed = zlib.crc32(name.encode("ascii") + struct.pack("<qq", n_real, n_basis))
        number = struct.pack("<Q", 0x7FF8000000000000)
        number = number if energy is None else struct.pack("<d", energy)
        row = zlib.crc32(struct.pack("<q", rank) + number + bytes([kinds]), seed)
        assert row == checksum
        assert zlib.crc32(bytes([kind]) + data, row) == other


@settings(max_examples=60, deadline=None)
@given(
    keys,
    st.lists(
        st.tuples(st.integers(0, 2**62), finite | st.none(), st.integers(0, 7)),
        min_size=1,
        max_size=20,
    ),
)
def test_checksums_of_many_rows_are_zlibs(
    key: BlockKey, rows: list[tuple[int, float | None, int]]
) -> None:
    stored = [(*row, store_codec.row_checksum(key, *row)) for row in rows]
    ranks, energies, kinds, is_whole = store_codec.decode_rows(key, stored)
    assert is_whole.all()
    assert ranks.tolist() == [row[0] for row in rows]
    assert kinds.tolist() == [row[2] for row in rows]
    assert [None if math.isnan(e) else e for e in energies] == [row[1] for row in rows]


@settings(max_examples=60, deadline=None)
@given(keys, st.integers(0, 2**40), finite, st.integers(0, 135))
def test_a_flipped_bit_of_a_row_is_seen(
    key: BlockKey, rank: int, energy: float, flipped: int
) -> None:
    checksum = store_codec.row_checksum(key, rank, energy, 3)
    row = bytearray(store_codec._ROW.pack(rank, energy, 3))
    row[flipped // 8] ^= 1 << flipped % 8
    other_rank, other_energy, kinds = store_codec._ROW.unpack(row)
    *_, is_whole = store_codec.decode_rows(key, [(other_rank, other_energy, kinds, checksum)])
    assert not is_whole[0]


@given(keys, st.binary(max_size=50), st.integers(0, 2**32 - 1))
def test_a_payload_belongs_to_one_row_and_kind(key: BlockKey, data: bytes, other: int) -> None:
    checksum = store_codec.row_checksum(key, 1, 2.0, GRADIENT)
    mine = store_codec.payload_checksum(checksum, GRADIENT, data)
    assert mine != store_codec.payload_checksum(checksum, HESSIAN, data)
    assert (mine == store_codec.payload_checksum(other, GRADIENT, data)) == (other == checksum)
    assert mine == zlib.crc32(bytes([GRADIENT]) + data, checksum)


@pytest.mark.parametrize("n_numbers", [0, 1, 2, 4, 10, 16, 18, 37])
def test_numbers_of_no_molecule_have_no_shape(n_numbers: int) -> None:
    with pytest.raises(ValueError, match="of no molecule"):
        store_codec.natural_shape(HESSIAN, n_numbers)


def test_all_energies_survive_sqlite(store: Store) -> None:
    numbers = [5e-324, 1.7976931348623157e308, -76.0, 2.0**53 + 2, 0.1 + 0.2, -1e-300]
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE t (energy REAL)")
    db.executemany("INSERT INTO t VALUES (?)", [(number,) for number in numbers])
    assert [row[0] for row in db.execute("SELECT energy FROM t")] == numbers
    space = make_space(sizes=(1,) * 6)
    store.attach(0, space)
    store.append([make_outcome(space, i, energy_hartree=e) for i, e in enumerate(numbers)])
    assert store.values(0).energies(space.blocks[0]).tolist() == numbers
    db.close()
