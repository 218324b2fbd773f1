"""What the report takes from the paper, against the figures of its tables as they are printed."""

from resact.train.report.paper import CLAIMS, PAPER_ROWS, TABLES

PUBLISHED = {
    "P3D RGB": (80.4, 95.0, 28),
    "P3D residual s=1": (83.0, 98.3, 28),
    "3D-R50 both s=1": (85.0, 99.1, 163),
    "P3D both s=1": (85.6, 99.2, 30),
    "P3D residual s=2": (82.7, 97.1, None),
    "P3D residual s=4": (80.2, 96.0, None),
    "P3D both s=1, no attention, no fmres": (82.1, 97.9, None),
    "P3D both s=1, no attention": (83.8, 98.4, None),
    "P3D both s=1, no fmres": (83.5, 98.1, None),
}
IN_TABLE = {2: [0, 1, 2, 3], 3: [1, 4, 5], 4: [6, 7, 8, 3]}


def test_every_row_of_the_paper_in_its_order():
    labels = list(PUBLISHED)
    for table in TABLES:
        rows = [row for row in PAPER_ROWS if row.table == table]
        expected = [(labels[place], *PUBLISHED[labels[place]]) for place in IN_TABLE[table]]
        assert [(row.key.label, row.top1, row.top5, row.variant.paper_g) for row in rows] == expected


def test_a_rows_key_is_that_of_the_network_built_for_it():
    for row in PAPER_ROWS:
        built = row.variant.build(width=0.0625, depths=(1, 1, 1, 1)).architecture
        expected = built.network, built.modality, built.attention, built.feature_residual
        assert (row.key.network, row.key.modality, row.key.attention, row.key.feature_residual) == expected


def test_claims_are_differences_of_the_papers_rows():
    top1 = {row.key: row.top1 for row in PAPER_ROWS}
    for claim in CLAIMS:
        assert claim.points == round(top1[claim.better] - top1[claim.worse], 1) > 0
    points = {table: [claim.points for claim in CLAIMS if claim.table == table] for table in TABLES}
    assert points == {2: [2.6, 2.6, 5.2, 0.6], 3: [0.3, 2.8, 2.5], 4: [3.5, 1.8, 2.1]}
