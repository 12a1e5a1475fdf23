"""Tables that other programs wrote: the cells of CSV, and names around a matrix."""

import csv

from candor.topologies.specs.specs import ConfigurationError, scalar, shown


def suffix(path: str) -> str:
    """The lower-case ending that says what format a file has: `.csv`."""
    name = path.rpartition("/")[2]
    return "." + name.rpartition(".")[2].lower() if "." in name else ""


def csv_rows(text: str) -> list[list[str]]:
    """The cells of CSV without blank rows, parted by commas or semicolons, numbers then perhaps
    with a decimal comma.

    Raises:
        ConfigurationError: not CSV.
    """
    lines = text.splitlines()
    semicolons = ";" in next((line for line in lines if line.strip()), "")
    try:
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(lines, delimiter=";" if semicolons else ",")
            if any(map(str.strip, row))
        ]
    except csv.Error as exc:
        raise ConfigurationError(f"not CSV: {exc}") from exc
    return [[cell.replace(",", ".") for cell in row] for row in rows] if semicolons else rows


def without_names(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Names of a header row, if there is one, and the rows of numbers without their labels.

    Raises:
        ConfigurationError: rows have names, too, in another order.
    """
    if not rows or not any(isinstance(scalar(cell), str) for cell in rows[0]):
        return [], rows
    header, body = rows[0], rows[1:]
    if not header[0] or (body and len(header) == len(body) + 1):
        names = header[1:]
        for name, row in zip(names, body, strict=False):
            if row[0] != name:
                raise ConfigurationError(
                    f"rows are not in the order of the columns: {shown(row[0])}, not {shown(name)}"
                )
        return names, [row[1:] for row in body]
    return header, body
