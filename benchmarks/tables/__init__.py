"""Real tables: distvae beside TVAE, scored by the same figures; see RESULTS.md."""
