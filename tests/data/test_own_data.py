"""A user's own table: what is understood, and what is refused."""

import io

import numpy as np
import pytest

from ablax.data import load
from ablax.data.delimited import read
from ablax.data.directory import data_directory
from ablax.data.own_data import load_csv, load_npz
from ablax.errors import UserError

HEADER = "age,color,member,constant,kind"
ROWS = [
    f"{20 + i},{('red', 'blue')[i % 2]},{('true', 'False')[i % 3 == 0]},7,{('x', 'y', 'z')[i % 3]}"
    for i in range(12)
]
GOOD = [HEADER, *ROWS]


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def joined(lines, delimiter=","):
    return "\n".join(line.replace(",", delimiter) for line in lines) + "\n"


def numbers(rows=12, target=lambda i: i % 2, header="a,b,y"):
    return joined(
        [*([header] if header else []), *(f"{i},{i * i},{target(i)}" for i in range(rows))]
    )


def test_columns_become_features(write):
    data = load_csv(write(joined(GOOD)), "kind")
    assert data.feature_names == ("age", "color=blue", "color=red", "member")
    np.testing.assert_array_equal(data.x[0], [20, 0, 1, 0])
    np.testing.assert_array_equal(data.x[1], [21, 1, 0, 1])
    assert (data.x.dtype, data.y.dtype) == (np.float32, np.int32)
    assert data.classes == ("x", "y", "z")
    assert data.y.tolist() == [0, 1, 2] * 4
    notes = "\n".join(data.notes)
    for part in (
        "data.csv: 12 rows, 4 features, header yes, delimiter ','",
        "target kind: classification, because the target is text",
        "classes: x (4), y (4), z (4)",
        "dropped columns of a single value: constant",
    ):
        assert part in notes


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(write, delimiter):
    table = read(write(joined(GOOD, delimiter)))
    assert (table.delimiter, len(table.columns)) == (delimiter, 5)


def test_other_delimiters_within_cells_do_not_count(write):
    text = joined([f"{i};a,b|c,d;{i % 2}" for i in range(12)])
    assert read(write(text)).delimiter == ";"


@pytest.mark.parametrize(
    "text",
    [
        "\n" + joined(GOOD).replace("\n", "\n\n"),
        joined(GOOD).replace("\n", "\r\n"),
        "\ufeff" + joined(GOOD),
        joined(GOOD).replace(",", " , "),
        joined(GOOD).replace("red", '"red"'),
        joined(GOOD).rstrip("\n"),
    ],
    ids=["blank lines", "CRLF", "byte order mark", "blanks", "quotes", "no newline at the end"],
)
def test_spelling_does_not_matter(write, text):
    plain, other = (load_csv(write(t), "kind") for t in (joined(GOOD), text))
    np.testing.assert_array_equal(plain.x, other.x)
    assert (plain.feature_names, plain.classes) == (other.feature_names, other.classes)


def test_quoted_cells_may_hold_delimiters_and_newlines(write):
    text = joined(["n,text,y", *(f'{i},"p;q\nr{i % 2}",{i % 2}' for i in range(12))]).replace(
        ";", ","
    )
    assert load_csv(write(text), "y").feature_names == ("n", "text=p,q\nr0", "text=p,q\nr1")


@pytest.mark.parametrize(
    ("first", "header"),
    [("a,b,y", True), ("1,2,0", False), ("1,b,y", None), (",b,y", None), ("a,a,y", None)],
)
def test_header_is_found(write, first, header):
    path = write(joined([first, *(f"{i},{i * i},{i % 2}" for i in range(12))]))
    if header is None:
        with pytest.raises(UserError, match=r"data\.csv: expected (line 1 to be|distinct column)"):
            read(path)
    else:
        table = read(path)
        assert table.header is header
        assert len(table.columns[0].cells) == 12 + (not header)


def test_a_few_numbers_and_words_are_categories(write):
    data = load_csv(
        write(joined(["rooms,y", *(f"{(1, 2, '3+')[i % 3]},{i % 2}" for i in range(12))])), "y"
    )
    assert data.feature_names == ("rooms=1", "rooms=2", "rooms=3+")


def test_text_that_repeats_is_data(write):
    table = read(write(joined(["u,u,v", *(["u,w,v", "w,u,v"] * 6)])))
    assert (table.header, table.columns[0].name) == (False, "column0")


@pytest.mark.parametrize("target", ["y", "2", 2, "-1", -1])
def test_target_by_name_or_position(write, target):
    data = load_csv(write(numbers()), target)
    assert data.feature_names == ("a", "b")
    assert data.y.tolist() == [0, 1] * 6


@pytest.mark.parametrize(
    ("target", "asked", "problem", "classes", "why"),
    [
        (
            lambda i: i % 3,
            "auto",
            "classification",
            ("0", "1", "2"),
            "3 distinct values, all whole",
        ),
        (lambda i: f"{i % 2}.0", "auto", "classification", ("0", "1"), "2 distinct values, all"),
        (lambda i: i % 3 + 0.5, "auto", "regression", (), "the target has fractions"),
        (lambda i: i, "auto", "regression", (), "63 distinct values"),
        (lambda i: i % 20, "auto", "classification", 20, "20 distinct values"),
        (lambda i: i % 21, "auto", "regression", (), "21 distinct values"),
        (lambda i: i % 3, "regression", "regression", (), "it was asked for"),
        (lambda i: i % 2 + 0.5, "classification", "classification", ("0.5", "1.5"), "asked"),
        (lambda i: i % 2 == 0, "auto", "classification", ("False", "True"), "the target is text"),
        (lambda i: 10 - 5 * (i % 2), "auto", "classification", ("5", "10"), "2 distinct"),
    ],
)
def test_problem_is_decided(write, target, asked, problem, classes, why):
    data = load_csv(write(numbers(63, target)), "y", asked)
    assert data.problem == problem
    if isinstance(classes, int):
        assert len(data.classes) == classes
    else:
        assert data.classes == classes
    assert why in data.notes[1]
    assert data.y.dtype == (np.int32 if data.classes else np.float32)
    first, second = data.y[0], data.y[1]
    expected = (str(target(0)), str(target(1)))
    if not data.classes:
        assert (float(first), float(second)) == tuple(map(float, expected))


def changed(line, old, new):
    lines = list(GOOD)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    return joined(lines)


BAD_CSV = {
    "empty": ("", "kind", "expected rows of data, got an empty file"),
    "blank": ("\n \n", "kind", "expected rows of data, got an empty file"),
    "one column": ("a\n1\n2\n", "a", "at least 2 columns.* got one in line 1: 'a'"),
    "not utf-8": (b"a,b\n\xff\xfe,1\n", "b", "text in UTF-8, got byte 0xff at offset 4"),
    "binary": (b"a,b\n\0,1\n", "b", "got a binary file"),
    "long row": (changed(5, "7,", "7,8,"), "kind", "expected 5 cells .* got 6 in line 5"),
    "short row": (changed(5, "7,", ""), "kind", "expected 5 cells .* got 4 in line 5"),
    "open quote": (changed(4, "red", '"red'), "kind", "double quotes: .* line 4"),
    "bad quote": (changed(4, "red", '"red"x'), "kind", "double quotes: .* line 4"),
    "huge line": ("x" * 200_000, "x", "double quotes: field larger"),
    "names twice": (changed(1, "color", "age"), "kind", "distinct column names, got 'age' twice"),
    "no target": (joined(GOOD), None, "--target .*; columns: age, color, member, constant, kind"),
    "unknown target": (joined(GOOD), "knd", "unknown column 'knd'; did you mean 'kind'.* age, col"),
    "far target": (joined(GOOD), "5", "a position from 0 to 4, -1 for the last.* got 5"),
    "negative target": (joined(GOOD), -2, "a position from 0 to 4.* got -2"),
    "few rows": (joined(GOOD[:10]), "kind", "at least 10 rows of data, got 9"),
    "header only": (joined(GOOD[:1]), "kind", "at least 10 rows of data, got 0"),
    "empty cell": (changed(3, "21", ""), "kind", "got 1 missing: '' in line 3, column age"),
    "NA": (changed(3, "blue", "NA"), "kind", "'NA' in line 3, column color"),
    "nan": (changed(3, "21", "nan"), "kind", "'nan' in line 3, column age"),
    "question mark": (changed(3, "21", "?"), "kind", "'[?]' in line 3, column age"),
    "missing target": (changed(3, "y", ""), "kind", "'' in line 3, column kind"),
    "infinite": (changed(3, "21", "-inf"), "kind", "column age, got '-inf' in line 3"),
    "overflow": (
        changed(3, "21", "1e39"),
        "kind",
        "fit float32 in column age, got '1e39' in line 3",
    ),
    "infinite target": (numbers(12, lambda i: "inf" if i == 5 else i), "y", "'inf' in line 7"),
    "one class": (numbers(12, lambda i: 1), "y", "at least 2 classes in target y, got only '1'"),
    "rare class": (
        numbers(12, lambda i: int(i < 2)),
        "y",
        r"at least 3 rows .* fewer of '1' \(2\)",
    ),
    "all text": (numbers(12, lambda i: f"t{i}"), "y", r"fewer of 't0' \(1\), .* and 7 more"),
    "decimal comma": (
        "\n".join(f"1,{i};{i % 2}" for i in range(12)),
        -1,
        "decimal points in column column0, got a comma in '1,0'",
    ),
    "many texts": (
        joined(["t,y", *(f"t{i},{i % 2}" for i in range(101))]),
        "y",
        "at most 100 distinct texts in column t, got 101 texts such as 't0'; drop",
    ),
    "misprint": (
        joined(["t,y", *(f"{i if i != 7 else 'l7'},{i % 2}" for i in range(30))]),
        "y",
        "column t to be all numbers or all text, got numbers and 'l7' in line 9",
    ),
    "no feature": (joined(["c,y", *(f"1,{i % 2}" for i in range(12))]), "y", "a feature that var"),
    "clash": (
        joined(["c,c=u,y", *(f"{'uv'[i % 2]},{i},{i % 2}" for i in range(12))]),
        "y",
        "distinct feature names, got 'c=u' both",
    ),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_text_files_are_refused_by_name(write, case):
    text, target, message = BAD_CSV[case]
    with pytest.raises(UserError, match=rf"data\.csv: (?s:.*){message}"):
        load_csv(write(text), target)


@pytest.mark.parametrize(
    ("target", "problem", "message"),
    [
        (lambda i: "uv"[i % 2], "regression", "numbers in target y for regression, got text .*'u'"),
        (lambda i: 3, "regression", "expected target y to vary, got 3 in every row"),
        (lambda i: i % 2, "clasification", "unknown problem 'clasification'; did you mean"),
    ],
)
def test_problems_that_do_not_fit_are_refused(write, target, problem, message):
    with pytest.raises(UserError, match=message):
        load_csv(write(numbers(12, target)), "y", problem)


def test_missing_cells_are_counted_and_the_first_ones_shown(write):
    text = joined(["a,b,y", *(f"{i},,{i % 2}" for i in range(12))])
    with pytest.raises(UserError, match=r"12 missing: '' in line 2.* line 6, column b and 7 more"):
        load_csv(write(text), "y")


def test_lines_are_those_of_the_file(write):
    text = 'a,b,y\n\n1,"two\nlines",0\n\n1,?,0\n' + "1,u,1\n" * 12
    with pytest.raises(UserError, match=r"1 missing: '\?' in line 6, column b;"):
        load_csv(write(text), "y")


def test_a_directory_is_not_a_table(tmp_path):
    (tmp_path / "data.csv").mkdir()
    with pytest.raises(UserError, match=r"data\.csv: expected a readable text file: Is a dir"):
        load_csv(tmp_path / "data.csv", "y")


@pytest.mark.parametrize("name", ["data.csv", "data.TSV", "data.txt"])
def test_load_reads_text_by_suffix(write, name):
    assert load(str(write(joined(GOOD), name)), target="kind").classes == ("x", "y", "z")


X = np.arange(24.0).reshape(12, 2)
Y = np.arange(12) % 3


@pytest.mark.parametrize(
    ("x", "y", "problem", "classes"),
    [
        (X, Y, "classification", ("0", "1", "2")),
        (X.reshape(12, 1, 2), Y.astype(np.float32), "classification", ("0", "1", "2")),
        (X > 3, np.array(["u", "v"] * 6), "classification", ("u", "v")),
        (X.astype(int), Y / 7, "regression", ()),
    ],
)
def test_npz(tmp_path, x, y, problem, classes):
    np.savez(tmp_path / "data.npz", X=x, y=y)
    data = load(str(tmp_path / "data.npz"))
    np.testing.assert_array_equal(data.x, x.astype(np.float32))
    assert (data.problem, data.classes) == (problem, classes)
    restored = np.array(classes)[data.y] if classes else data.y
    np.testing.assert_array_equal(restored, y.astype(restored.dtype))
    assert f"features of shape {x.shape[1:]}" in data.notes[0]


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


with_nan = np.where(X == 8, np.nan, X)
BAD_NPZ = {
    "empty": (b"", "a readable .npz file"),
    "text": (b"a,b\n1,2\n", "a readable .npz file"),
    "truncated": (npz(X=X, y=Y)[:-40], "a readable .npz file"),
    "garbled": (npz(X=X, y=Y).replace(bytes(8) + b"\1", b"garbage!!"), "a readable .npz"),
    "single array": (npy(X), "a readable .npz file"),
    "pickled": (npz(X=np.array([{}] * 12), y=Y), "plain arrays X and y, got: Object arrays"),
    "other names": (npz(x=X, labels=Y), "arrays X and y and no others, got x, labels"),
    "more names": (npz(X=X, y=Y, X_test=X), "no others, got X, y, X_test"),
    "flat": (npz(X=Y, y=Y), r"X of shape \[n, features, …\] .* got \(12,\) and \(12,\)"),
    "unequal": (npz(X=X, y=Y[:-1]), r"got \(12, 2\) and \(11,\)"),
    "column": (npz(X=X, y=Y[:, None]), r"got \(12, 2\) and \(12, 1\)"),
    "no features": (npz(X=X[:, :0], y=Y), r"got \(12, 0\)"),
    "text features": (npz(X=X.astype(str), y=Y), "numbers in X .* got <U"),
    "complex": (npz(X=X, y=Y * 1j), "numbers or text in y, got .* complex128"),
    "few rows": (npz(X=X[:9], y=Y[:9]), "at least 10 rows of data, got 9"),
    "nan": (npz(X=with_nan, y=Y), "in X, got others in 1 rows, the first at index 4"),
    "overflow": (npz(X=X * 1e40, y=Y), "fit float32 in X, got others in 12 rows"),
    "nan target": (npz(X=X, y=with_nan[:, 0]), "1 missing: 'nan' in index 4, column y"),
    "infinite target": (
        npz(X=X, y=1 / (Y + 0.0).clip(1e-99)),
        "column y, got '1e[+]99' in index 0",
    ),
    "one class": (npz(X=X, y=Y * 0), "at least 2 classes in target y, got only '0'"),
    "rare class": (npz(X=X, y=Y // 2 * (np.arange(12) < 4)), "at least 3 rows of each class"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz_files_are_refused_by_name(write, case):
    content, message = BAD_NPZ[case]
    with pytest.raises(UserError, match=rf"data\.npz: .*{message}"):
        load_npz(write(content, "data.npz"))


@pytest.mark.parametrize(
    ("file", "target", "shape", "counts"),
    [
        ("udacity-student-admissions/student_data.csv", "admit", (400, 3), [273, 127]),
        ("udacity-perceptron/data.csv", -1, (100, 2), [50, 50]),
    ],
)
def test_real_tables(file, target, shape, counts):
    path = data_directory() / file
    if not path.is_file():
        pytest.skip(f"no {path}; set ABLAX_DATA")
    data = load_csv(path, target)
    assert data.x.shape == shape
    assert np.bincount(data.y).tolist() == counts
