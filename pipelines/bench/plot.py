"""Latency against rate as a picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipelines.bench.road import Report


def plot(report: Report, path: Path) -> None:
    """p50 and p99 of every rate that was held, a line for each road."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name in dict.fromkeys(run.road for run in report.runs):
        held = sorted((run for run in report.runs if run.road == name and run.rate), key=lambda run: run.per_second)
        for percentile, style in (("p50", "o-"), ("p99", "o--")):
            seconds = [getattr(run, f"{percentile}_s") for run in held]
            axes.plot([run.per_second for run in held], seconds, style, label=f"{name}, {percentile}")
    axes.set(xlabel="payments per second", ylabel="seconds from Kafka to the commit in PostgreSQL", ylim=(0, None))
    axes.set_title(f"{report.machine['cpu']}, {report.machine['cores']} cores", fontsize="small")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
