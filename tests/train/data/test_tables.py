"""A user's own files: what columns become, how rows are split, and what is refused in one line."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from lemmata.train import data
from lemmata.train.data import splits, store, tables

WRITERS = {}


def writer(suffix):
    return lambda function: WRITERS.setdefault(suffix, function)


@writer(".csv")
def write_csv(path, columns):
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns)
        out.writerows(zip(*columns.values(), strict=True))


@writer(".jsonl")
def write_jsonl(path, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@writer(".npz")
def write_npz(path, columns):
    np.savez(path, **{name: np.array(values) for name, values in columns.items()})


@writer(".parquet")
def write_parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def flowers():
    """Rows of each kind of column."""
    rng = np.random.default_rng(0)
    count = 200
    return {
        "length": rng.normal(size=count).round(6).tolist(),
        "width": rng.integers(0, 9, count).tolist(),
        "species": [("setosa", "iris, blue", 'the "red"')[i] for i in rng.integers(0, 3, count)],
        "grade": [("low", "middle", "high")[i] for i in rng.integers(0, 3, count)],
        "stars": rng.integers(1, 6, count).tolist(),
        "remark": [f"row {i},\nwith a line – and more" for i in range(count)],
    }


COLUMNS = {
    "inputs": ("width", "length"),
    "label": "species",
    "ordinal": {"grade": ("low", "middle", "high"), "stars": ()},
    "text": "remark",
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_columns_become_features_by_their_roles(suffix, flowers, tmp_path):
    path = tmp_path / f"flowers{suffix}"
    WRITERS[suffix](path, flowers)
    found = tables.read(str(path), COLUMNS)
    expected = np.stack([flowers["width"], flowers["length"]], 1).astype(np.float32)
    np.testing.assert_array_equal(found.features["features"], expected)
    assert found.features["features"].dtype == np.float32
    assert found.class_names == ("iris, blue", "setosa", 'the "red"')
    assert found.features["label"].dtype == np.int32
    assert [found.class_names[label] for label in found.features["label"]] == flowers["species"]
    assert found.levels == {"grade": ("low", "middle", "high"), "stars": ("1", "2", "3", "4", "5")}
    grades = [("low", "middle", "high").index(grade) for grade in flowers["grade"]]
    stars = [star - 1 for star in flowers["stars"]]
    np.testing.assert_array_equal(found.features["ordinal"], np.stack([grades, stars], 1))
    assert [text.decode() for text in found.features["text"]] == flowers["remark"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_splits_are_the_same_in_every_format_and_order_and_when_rows_are_added(suffix, flowers, tmp_path):
    columns = {"inputs": ("width", "length"), "label": "species"}

    def sides(name, rows):
        path = tmp_path / f"{name}{suffix}"
        WRITERS[suffix](path, rows)
        loaded = {split: data.load(str(path), split, columns=columns) for split in splits.ORDER}
        info = data.info(str(path), columns=columns)
        assert info.splits == {split: len(found["label"]) for split, found in loaded.items()}
        return {split: {row.tobytes() for row in found["features"]} for split, found in loaded.items()}

    found = sides("all", flowers)
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 200
    assert 25 < len(found["test"]) < 55
    assert 5 < len(found["validation"]) < 30
    np.testing.assert_array_equal(sorted(found["test"]), sorted(csv_sides(flowers, tmp_path)["test"]))
    assert sides("turned", {key: values[::-1] for key, values in flowers.items()}) == found
    first = sides("first", {key: values[:100] for key, values in flowers.items()})
    assert all(first[split] <= found[split] for split in found)


def csv_sides(rows, folder):
    write_csv(folder / "reference.csv", rows)
    columns = {"inputs": ("width", "length"), "label": "species"}
    path = str(folder / "reference.csv")
    return {
        split: {row.tobytes() for row in data.load(path, split, columns=columns)["features"]} for split in splits.ORDER
    }


def test_rows_with_one_prompt_are_on_one_side(tmp_path):
    rows = {
        "question": [f"q{i // 4}" for i in range(400)],
        "answer": [f"a{i}" for i in range(400)],
        "good": [i % 3 == 0 for i in range(400)],
    }
    write_jsonl(tmp_path / "feedback.jsonl", rows)
    columns = {"prompt": "question", "completion": "answer", "label": "good"}
    path = str(tmp_path / "feedback.jsonl")
    info = data.info(path, columns=columns)
    assert info.class_names == ("False", "True")
    assert info.features["prompt"] == ((None,), np.uint8)
    loaded = {split: data.load(path, split, columns=columns) for split in splits.ORDER}
    prompts = [set(found["prompt"]) for found in loaded.values()]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 100
    train = loaded["train"]
    truth = {answer.encode(): good for answer, good in zip(rows["answer"], rows["good"], strict=True)}
    assert [truth[answer] for answer in train["completion"]] == train["label"].astype(bool).tolist()


def test_a_column_says_the_split(tmp_path):
    rows = {"x": list(range(300)), "y": [0, 1] * 150, "fold": ["train"] * 200 + ["test"] * 99 + ["validation"]}
    write_csv(tmp_path / "all.csv", rows)
    columns = {"inputs": "x", "label": "y", "split": "fold"}

    def load(name, split):
        return data.load(str(tmp_path / name), split, columns=columns)["features"][:, 0].tolist()

    assert [load("all.csv", split) for split in splits.ORDER] == [list(range(200)), [299], list(range(200, 299))]
    assert load("all.csv", "train[:2]+validation") == [0, 1, 299]
    rows["fold"][-1] = "test"  # then validation comes from the training rows
    write_csv(tmp_path / "two.csv", rows)
    train, validation = load("two.csv", "train"), load("two.csv", "validation")
    assert sorted(train + validation) == list(range(200))
    assert 5 < len(validation) < 40
    assert load("two.csv", "train+validation") == list(range(200))
    assert load("two.csv", "test") == list(range(200, 300))
    write_csv(tmp_path / "one.csv", {"x": [1, 2], "y": [0, 1], "fold": ["train", "train"]})
    with pytest.raises(ValueError, match=r"split 'test' is none of .*one\.csv's: train, validation"):
        load("one.csv", "test")


def test_images_and_vectors_of_arrays(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 4, 5, 3), dtype=np.uint8)
    others = {"kind": np.arange(30) % 2 + 5, "vector": rng.normal(size=(30, 3)), "weight": np.arange(30) / 7}
    np.savez(tmp_path / "images.npz", photo=images, **others)
    path = str(tmp_path / "images.npz")
    found = tables.read(path, {"inputs": "photo", "label": "kind"})
    np.testing.assert_array_equal(found.features["image"], images)
    assert found.features["image"].dtype == np.uint8
    assert found.class_names == ("5", "6")
    both = tables.read(path, {"inputs": ("vector",), "continuous": "weight", "target": "kind"})
    assert both.features["features"].shape == (30, 3)
    assert tables.read(path, {"inputs": ("weight", "vector")}).features["features"].shape == (30, 4)
    np.testing.assert_array_equal(both.features["target"], np.arange(30) % 2 + 5)
    with pytest.raises(ValueError, match=r"column 'photo' has shape \[30, 4, 5, 3\]; expected .* or, alone"):
        tables.read(path, {"inputs": ("photo", "vector")})
    with pytest.raises(ValueError, match=r"column 'vector' has shape \[30, 3\]; expected \[n\]"):
        tables.read(path, {"continuous": "vector"})
    write_jsonl(tmp_path / "vectors.jsonl", {"v": [[1, 2], [3, 4.5]], "y": ["a", "b"]})
    found = tables.read(str(tmp_path / "vectors.jsonl"), {"inputs": "v", "label": "y"})
    np.testing.assert_array_equal(found.features["features"], [[1, 2], [3, 4.5]])


def test_mixed_columns_for_clustering(tmp_path):
    write_csv(tmp_path / "mixed.csv", {"a": [0.5, 1.5, 2], "b": ["y", "x", "y"], "c": [10, 9, 10], "k": [1, 0, 1]})
    columns = {"continuous": "a", "categorical": ("b", "c"), "label": "k"}
    found = tables.read(str(tmp_path / "mixed.csv"), columns)
    np.testing.assert_array_equal(found.features["continuous"], [[0.5], [1.5], [2]])
    np.testing.assert_array_equal(found.features["categorical"], [[1, 1], [0, 0], [1, 1]])
    assert found.levels == {"b": ("x", "y"), "c": ("9", "10")}
    assert data.info(str(tmp_path / "mixed.csv"), columns=columns).levels == found.levels
    write_csv(tmp_path / "more.csv", {"a": [0.5, 1.5, 3], "b": ["y", "x", "a"], "c": [10, 9, 10], "k": [0, 1, 0]})
    more = tables.read(str(tmp_path / "more.csv"), columns)  # a new level moves the codes and no row
    assert more.features["categorical"][:2].tolist() == [[2, 1], [1, 0]]
    np.testing.assert_array_equal(more.fraction[:2], found.fraction[:2])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["2.0", "1.0", "2.0"], ("1", "2")),
        (["07", "7", "8"], ("07", "7", "8")),
        (["b", "a", "1"], ("1", "a", "b")),
        ([" a", "a", "A"], (" a", "A", "a")),
    ],
)
def test_labels_of_csv_are_numbers_where_all_of_them_are(values, names, tmp_path):
    write_csv(tmp_path / "labels.csv", {"x": [1, 2, 3], "y": values})
    found = tables.read(str(tmp_path / "labels.csv"), {"inputs": "x", "label": "y"})
    assert found.class_names == names


def test_text_of_a_file_is_read_as_documents_and_windows(tmp_path, flowers):
    write_jsonl(tmp_path / "text.jsonl", flowers)
    path, columns = str(tmp_path / "text.jsonl"), {"text": "remark", "label": "species"}
    documents = data.documents(path, "train", columns=columns)
    joined = b"".join(document.tobytes() + b"\0" for document in documents)
    tokens = data.windows(path, "train", 16, columns=columns)["tokens"]
    assert tokens.tobytes() == joined[: tokens.size]
    stream = data.stream(path, "train", batch_size=4, seed=0, window=16, columns=columns)
    assert stream.size == len(tokens)
    assert {row.tobytes() for row in next(stream)["tokens"]} <= {row.tobytes() for row in tokens}
    labelled = next(data.stream(path, "train", batch_size=4, seed=0, columns=columns))
    assert isinstance(labelled["text"][0], bytes)
    assert labelled["label"].dtype == np.int32


def test_files_are_found_beside_the_user_and_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    columns = {"inputs": "x", "label": "y"}
    write_csv(tmp_path / "data" / "mine.csv", {"x": [1.0], "y": [0]})
    assert tables.read("mine.csv", columns).features["features"] == [[1]]
    write_csv(tmp_path / "here" / "mine.csv", {"x": [2.0], "y": [0]})
    assert tables.read("mine.csv", columns).features["features"] == [[2]]
    write_csv(tmp_path / "here" / "mine.csv", {"x": [3.0, 4.0], "y": [0, 0]})  # a file that changes is read anew
    assert tables.read("mine.csv", columns).features["features"].tolist() == [[3], [4]]
    with pytest.raises(ValueError, match=rf"'mine2.csv' is a file that is not in {tmp_path}/here or .*'mine.csv'\?"):
        tables.read("mine2.csv", columns)


def test_settings_of_a_config_name_columns_as_dicts_do(tmp_path, flowers):
    from ml_collections import ConfigDict

    write_csv(tmp_path / "flowers.csv", flowers)
    found = tables.read(
        str(tmp_path / "flowers.csv"), ConfigDict(COLUMNS | {"inputs": ["width", "length"], "target": None})
    )
    assert set(found.features) == {"features", "label", "ordinal", "text"}


# ------------------------------------------------------------------------------------------------------------ mistakes

BASIC = {"inputs": ("a", "b"), "label": "y"}


@pytest.mark.parametrize(
    ("text", "columns", "named"),
    [
        ("a,b,y\n1,2,x\n1,,x\n", BASIC, r"column 'b' has no value in row 1 \(line 3\); expected a number"),
        ("a,b,y\n1,2,x\n1,2,\n", BASIC, r"column 'y' has no value in row 1 \(line 3\)"),
        ("a,b,y\n1,two,x\n", BASIC, r"column 'b' has 'two' in row 0 \(line 2\); expected a number"),
        ("a,b,y\n1,1_0,x\n", BASIC, r"column 'b' has '1_0' in row 0"),
        ("a,b,y\n1,nan,x\n", BASIC, r"column 'b' has a NaN in row 0 \(line 2\); expected a finite number"),
        ("a,b,y\n1,-inf,x\n", BASIC, r"column 'b' has an infinity in row 0"),
        ("a,b,y\n1,1e300,x\n", BASIC, r"column 'b' has a number that does not fit float32 in row 0"),
        ("a,b,y\n1,2,x\n1,2\n", BASIC, r"line 3 has 2 fields; expected 3 fields, as in the header"),
        ("a,b,y\n1,2,x,4\n", BASIC, r"line 2 has 4 fields"),
        ("a,b,y\n1,2,x\n\n1,2,x\n", BASIC, r"line 3 is blank"),
        ('a,b,y\n1,2,"x"y\n', BASIC, r"line 2 is no CSV"),
        ("a,a,y\n1,2,x\n", BASIC, r"has two columns 'a'"),
        ("a,b,y\n", BASIC, r"has no rows"),
        ("", BASIC, r"has no column 'a', only none"),
        ("a,b,y\n1,2,0.5\n", BASIC, r"column 'y' has 0.5 in row 0 \(line 2\).*name the column as a target"),
        ("a,b,y\n1,2,3\n1,2,NaN\n", BASIC, r"column 'y' has a NaN in row 1"),
        ("a,b,y\n1,2,3\n", {**BASIC, "label": "z"}, r"has no column 'z', only 'a', 'b', 'y'"),
        ("a,b,yes\n1,2,3\n", BASIC, r"has no column 'y', only 'a', 'b', 'yes'\. Did you mean 'yes'"),
        ("a,b,y\n1,2,3\n", {}, r"columns must say what the columns of .* are for.*The file has a, b, y"),
        ("a,b,y\n1,2,3\n", None, r"columns must say"),
        ("a,b,y\n1,2,3\n", {"imputs": "a"}, r"'imputs' is no role; expected one of inputs.*Did you mean 'inputs'"),
        ("a,b,y\n1,2,3\n", {"inputs": "a", "label": "a"}, r"column 'a' is in columns.inputs and columns.label"),
        ("a,b,y\n1,2,3\n", {"inputs": ("a", "a")}, r"columns.inputs must be different names"),
        ("a,b,y\n1,2,3\n", {"inputs": (1,)}, r"columns.inputs must be different names of columns, got \(1,\)"),
        ("a,b,y\n1,2,3\n", {"inputs": {"a": 1}}, r"columns.inputs must be a name or several"),
        ("a,b,y\n1,2,3\n", {"label": ("a", "b")}, r"columns.label must be one column"),
        ("a,b,y\n1,2,3\n", {"split": "y"}, r"columns must name at least one column to learn from"),
        (
            "a,b,y\n1,2,x\n",
            {"inputs": "a", "split": "y"},
            r"column 'y' has 'x' in row 0.*one of train, validation",
        ),
        (
            "a,b,y\n1,2,x\n",
            {"ordinal": {"y": ("z",)}},
            r"'y' has 'x' in row 0 \(line 2\); expected one of the levels z",
        ),
        ("a,b,y\n1,2,x\n", {"ordinal": {"y": ("x", "x")}}, r"columns.ordinal: the levels of 'y' must differ"),
        ("a,b,y\n1,2,x\n", {"ordinal": {"y": "x"}}, r"columns.ordinal must list the levels of 'y' from the lowest"),
    ],
)
def test_a_mistake_in_csv_names_file_column_and_row(text, columns, named, tmp_path):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=named) as error:
        tables.read(str(tmp_path / "mine.csv"), columns)
    assert "\n" not in str(error.value)
    assert "mine.csv" in str(error.value) or str(error.value).startswith(("columns", "column"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a": 1, "b": 2, "y": 0}\n{"a": 1, "y": 0}\n', r"column 'b' has no value in row 1 \(line 2\)"),
        ('{"a": 1, "b": null, "y": 0}\n', r"column 'b' has no value in row 0"),
        ('{"a": 1, "b": "2", "y": 0}\n', r"column 'b' has '2' in row 0 \(line 1\); expected a number"),
        ('{"a": 1, "b": true, "y": 0}\n', r"column 'b' has True in row 0"),
        ('{"a": 1, "b": NaN, "y": 0}\n', r"column 'b' has a NaN in row 0"),
        (
            '{"a": 1, "b": [1, 2], "y": 0}\n{"a": 1, "b": [1], "y": 0}\n',
            r"'b' has a list of 1 in row 1.*a list of 2",
        ),
        ('{"a": 1, "b": [1, [2]], "y": 0}\n', r"column 'b' has \[1, \[2\]\] in row 0"),
        ('{"a": 1, "b": 1' + "0" * 400 + ', "y": 0}\n', r"column 'b' has a number that does not fit float32"),
        ('{"a": 1, "b": 2, "y": 0.5}\n', r"column 'y' has 0\.5 in row 0"),
        ('{"a": 1, "b": 2, "y": ""}\n', r"column 'y' has no value in row 0"),
        (
            '{"a": 1, "b": 2, "y": 0}\n{"a": 1, "b": 2, "y": "0"}\n',
            r"'y' has a string in row 1.*a number, as in row 0",
        ),
        ('{"a": 1, "b": 2, "y": 1}\n{"a": 1, "b": 2, "y": true}\n', r"column 'y' has a truth value in row 1"),
        ('{"a": 1, "b": 2, "y": {"c": 1}}\n', r"column 'y' has \{'c': 1\} in row 0"),
        ('{"a": 1, "b": 2, "y": 0}\n\n{"a": 1, "b": 2, "y": 0}\n', r"line 2 is blank"),
        ('{"a": 1, "b": 2, "y": 0\n', r"line 1 is no JSON"),
        ('{"a": 1, "a": 2, "b": 2, "y": 0}\n', r"line 1 has 'a' twice"),
        ("[1, 2]\n", r"line 1 must be an object, got \[1, 2\]"),
        ("", r"has no rows"),
    ],
)
def test_a_mistake_in_jsonl_names_file_column_and_row(text, named, tmp_path):
    (tmp_path / "mine.jsonl").write_text(text)
    with pytest.raises(ValueError, match=named) as error:
        tables.read(str(tmp_path / "mine.jsonl"), BASIC)
    assert "\n" not in str(error.value)
    assert "mine.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"a": np.zeros(3), "b": np.array([0, np.inf, 1]), "y": np.zeros(3, int)}, "'b' has an infinity in row 1"),
        ({"a": np.zeros(3), "b": np.array(["1"] * 3), "y": np.zeros(3, int)}, "'b' holds <U1; expected numbers"),
        (
            {"a": np.zeros(3), "b": np.zeros(2), "y": np.zeros(3, int)},
            r"one common first axis, got .*'b': \[2\]",
        ),
        (
            {"a": np.zeros(3), "b": np.float32(0), "y": np.zeros(3, int)},
            r"one common first axis, got .*'b': \[\]",
        ),
        ({"a": np.zeros(3), "b": np.zeros(3), "y": np.zeros((3, 2), int)}, r"'y' holds int64 \[3, 2\]"),
        ({"a": np.zeros(3), "b": np.array([1, None, 2]), "y": np.zeros(3, int)}, "'b' cannot be read: Object arrays"),
        ({"a": np.zeros(0), "b": np.zeros(0), "y": np.zeros(0, int)}, "has no rows"),
    ],
)
def test_a_mistake_in_arrays_names_file_column_and_row(arrays, named, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=named) as error:
        tables.read(str(tmp_path / "mine.npz"), BASIC)
    assert "mine.npz" in str(error.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz", ".parquet"])
def test_a_file_that_is_none_of_its_kind_is_named(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(b"\xff\xfe\x00 no such thing")
    for columns in (BASIC, None):
        with pytest.raises(ValueError, match=f"mine{suffix} (must be UTF-8|is no )"):
            tables.read(str(path), columns)
    if suffix == ".npz":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
        with pytest.raises(ValueError, match="holds one array without a name"):
            tables.read(str(path), BASIC)


def test_missing_values_and_dates_of_parquet_are_named(tmp_path):
    import datetime

    write_parquet(tmp_path / "mine.parquet", {"a": [1.0, None], "b": [1, 2], "y": [datetime.date(2026, 1, 1)] * 2})
    with pytest.raises(ValueError, match=r"mine\.parquet: column 'a' has no value in row 1; expected a number"):
        tables.read(str(tmp_path / "mine.parquet"), {"inputs": "a"})
    with pytest.raises(ValueError, match=r"column 'y' has datetime\.date\(2026, 1, 1\) in row 0"):
        tables.read(str(tmp_path / "mine.parquet"), {"inputs": "b", "label": "y"})


def test_without_pyarrow_a_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "mine.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r'needs pyarrow to be read: pip install -e "\.\[tables\]" in the checkout'):
        tables.read(str(tmp_path / "mine.parquet"), BASIC)


def test_text_that_is_missing_or_none_is_named(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", {"t": ["a", "", 3], "u": ["a", None, "b"]})
    with pytest.raises(ValueError, match=r"column 't' has 3 in row 2 \(line 3\); expected a string"):
        tables.read(str(tmp_path / "mine.jsonl"), {"text": "t"})
    with pytest.raises(ValueError, match=r"column 'u' has no value in row 1 \(line 2\); expected a string"):
        tables.read(str(tmp_path / "mine.jsonl"), {"text": "u"})


def test_a_file_is_read_without_tfds_grain_and_scikit_learn(tmp_path):
    write_csv(tmp_path / "mine.csv", {"a": list(range(50)), "y": [0, 1] * 25})
    code = f"""
import sys
from lemmata.train import data
columns = {{"inputs": "a", "label": "y"}}
for split in ("train", "train+validation", "test"):
    data.load({str(tmp_path / "mine.csv")!r}, split, columns=columns)
heavy = {{"tensorflow_datasets", "grain", "sklearn", "pyarrow"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_of_files_are_told_from_names_of_sets():
    assert all(tables.is_file(name) for name in ("a.csv", "/b/c.NPZ", "d.e.jsonl", "~/f.parquet"))
    assert not any(
        tables.is_file(name) for name in ("csv", "mnist:3.0.1", "a.tsv", "a.csv.gz", "", 3, None, *data.names())
    )
    with pytest.raises(ValueError, match=r"a file \(\.npz, \.csv, \.parquet, \.jsonl\)"):
        store.prepare("a.tsv")
    with pytest.raises(ValueError, match="has no options, got canvas"):
        data.load("mine.csv", "train", columns=BASIC, canvas=3)
