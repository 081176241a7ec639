"""``make bench``: the embedding benchmark; the others are run by name (see RESULTS.md)."""

from __future__ import annotations

from benchmarks.embed import main

main()
