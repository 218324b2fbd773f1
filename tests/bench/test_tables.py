import io

from rich.console import Console

from resact.bench.tables import print_table


def test_names_stand_on_the_left_and_numbers_on_the_right():
    text = io.StringIO()
    rows = [("slow", "1.5"), ("quickest", "1,234.5")]
    print_table(Console(file=text, width=60), ["", "a second"], rows, title="speed", footer=["all", "1,236.0"])
    title, heading, *rest = [line.rstrip() for line in text.getvalue().splitlines()]
    assert title.strip() == "speed"
    assert heading == "         a second"
    assert rest == ["slow          1.5", "quickest  1,234.5", "all       1,236.0"]
