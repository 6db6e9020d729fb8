"""What a run's report says: its numbers (report.json), and the same in HTML and Markdown.

`numbers` counts what was kept while the records streamed by; `audit` asks the tables of the run by DuckDB (`queries`);
`examples` chooses what is shown in full; `pages` writes it all, with `plots`; `card` describes the cleaned set.
"""

from relabel.report.numbers import build_report, calibrations, counts
from relabel.report.pages import CARD, PAGE, REPORT, SUMMARY, read_report, write_report

__all__ = ["CARD", "PAGE", "REPORT", "SUMMARY", "build_report", "calibrations", "counts", "read_report", "write_report"]
