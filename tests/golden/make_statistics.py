"""Writes statistics.tsv, a small table, and statistics.golden, what is right about it.

    python3 make_statistics.py          needs numpy, scipy, statsmodels

Means and ratios come from the formulas with numpy, errors are compared here with the cluster-robust
ordinary least squares of statsmodels (a mean: regression on a constant; a ratio of means: its
residuals on a constant), quantiles are scipy's. A line of statistics.golden is a name and numbers.
"""
import pathlib

import numpy as np
import statsmodels.api as sm
from scipy import stats

here = pathlib.Path(__file__).parent
random = np.random.default_rng(7)
n = 60
names = [f"template {g}" for g in random.integers(0, 9, n)]
names = [name if random.random() > 0.15 else "" for name in names]     # "": a group of its own
shift = {name: random.normal() for name in sorted(set(names))}
base = np.array([3 + shift[g] + random.normal() for g in names])
edited = base - np.array([1 + 0.5 * shift[g] + 0.3 * random.normal() for g in names])
source = -base + random.normal(size=n)
numbers = np.column_stack([base, edited, source])
with open(here / "statistics.tsv", "w") as out:
    out.write("group\tbase\tedited\tsource\n")
    for name, row in zip(names, numbers):
        out.write("\t".join([name] + [repr(float(x)) for x in row]) + "\n")


def numbered(names):
    number, seen = [], {}
    for i, name in enumerate(names):
        number.append(seen.setdefault(name if name else i, len(seen)))
    return np.array(number)


def error_of_sum(left, group):
    sums = np.array([left[group == g].sum() for g in np.unique(group)])
    G = len(sums)
    return np.sqrt(G / (G - 1) * (sums ** 2).sum()) if G > 1 else np.nan


def robust(v, group):
    """statsmodels multiplies by G/(G-1) * (n-1)/(n-k), and k = 1 regressor."""
    fit = sm.OLS(v, np.ones(len(v))).fit(cov_type="cluster", cov_kwds={"groups": group})
    return fit.bse[0]


def estimate(a, b, group):
    ratio = a.sum() / b.sum()
    error = error_of_sum(a - ratio * b, group) / abs(b.sum())
    if len(np.unique(group)) > 1:
        beside = robust(a - ratio * b, group) * len(a) / abs(b.sum())
        assert abs(error / beside - 1) < 1e-12, (error, beside)
    G = len(np.unique(group))
    critical = stats.t.ppf(0.975, G - 1) if G > 1 else np.nan
    return [ratio, error, len(a), G, critical]


one = np.ones(n)
all_rows = numbered(names)
single = np.arange(n)
with open(here / "statistics.golden", "w") as out:
    def line(name, values):
        out.write(name + "".join(f" {float(x)!r}" for x in values) + "\n")

    for what, group in [("clustered", all_rows), ("single", single)]:
        line(what + ".base", estimate(base, one, group))
        line(what + ".edited", estimate(edited, one, group))
        line(what + ".change", estimate(edited - base, one, group))
        line(what + ".share", estimate(edited, base, group))
        line(what + ".restored", estimate(edited - base, source - base, group))
    kept = np.arange(n) % 7 != 3                                        # as if those were not finite
    line("kept.base", estimate(base[kept], one[kept], all_rows[kept]))
    line("kept.restored", estimate((edited - base)[kept], (source - base)[kept], all_rows[kept]))
    line("groups", all_rows)
    for freedom in list(range(1, 130)) + [200, 999, 1000, 12345, 10**6, 2 * 10**9]:
        line(f"t {freedom}", [stats.t.ppf(0.975, freedom)])
