"""How close synthetic rows are to real ones, and how far from copies of them.

pandas, scikit-learn and SDMetrics do the measuring and are imported by the functions that need
them; they come with ``pip install 'distvae[fidelity]'``.
"""

from __future__ import annotations

from distvae.fidelity.measure import LEAST_ROWS, MOST_ROWS, available, fidelity
from distvae.fidelity.samples import evaluate_synthetic, sample_table

__all__ = ["LEAST_ROWS", "MOST_ROWS", "available", "evaluate_synthetic", "fidelity", "sample_table"]
