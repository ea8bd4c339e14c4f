"""From what people write to plain, checked data: documents, geometry files and their rules."""
