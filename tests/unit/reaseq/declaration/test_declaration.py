"""The declaration: what each kind of attribute reads, and the errors of a declaration that cannot be used."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reaseq.declaration import Aggregate, Attribute, Category, Declaration, Flag, Number, Tags, load_declaration
from reaseq.declaration import example as example_module
from reaseq.errors import InvalidDeclaration, InvalidRecord

EXAMPLE = Path(example_module.__file__)
VIEWS = Aggregate("views", "count", ["view"], windows=["24h"])


@pytest.mark.parametrize(
    ("attribute", "text", "value"),
    [
        (Number("n"), "12.5", 12.5),
        (Number("n"), " -3e2 ", -300.0),
        (Number("n"), "1,5", None),
        (Number("n"), "heavy", None),
        (Number("n"), "nan", None),
        (Number("n"), "inf", None),
        (Number("n", default="7"), "", 7.0),
        (Number("n", default="7"), "heavy", 7.0),
        (Flag("f"), "TRUE", 1.0),
        (Flag("f"), "n", 0.0),
        (Flag("f"), "maybe", None),
        (Category("c", values=["red", "blue"]), "blue", (2,)),
        (Category("c", values=["red", "blue"]), "  BLUE", (2,)),
        (Category("c", values=["red", "blue"]), "mauve", (3,)),
        (Category("c", values=["red", "blue"]), "", None),
        (Tags("t", values=["a", "b", "c"]), "c, a,,a ,x", (3, 1, 4)),
        (Tags("t", values=["a", "b", "c"], limit=1), "c, a", (3,)),
        (Tags("t", values=["a", "b"], separator=" > "), "b > a", (2, 1)),
        (Tags("t"), " , ,", None),
    ],
)
def test_kinds_read_text(attribute: Attribute, text: str, value: object) -> None:
    assert attribute.value(text) == value


def test_hashed_category_has_one_code_in_range_for_a_value_however_it_is_written() -> None:
    brand = Category("brand", buckets=8)

    codes = {brand.read(f"brand {number}") for number in range(200)}
    assert codes == {(code,) for code in range(1, 9)}
    assert brand.read("L’Oréal") == brand.read(" l’oréal ")


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Number(""), "cannot have the name ''"),
        (lambda: Number(" weight"), "cannot have the name ' weight': write 'weight'"),
        (lambda: Number("n", default="x"), "attribute 'n': the default 'x' is no number"),
        (lambda: Flag("f", required=True, default="no"), "attribute 'f': it is required, so leave out the default"),
        (lambda: Category("c", values=["a", "A"]), "attribute 'c': a value is empty or there twice"),
        (lambda: Category("c", values=["a", " "]), "attribute 'c': a value is empty or there twice"),
        (lambda: Category("c", values="abc"), "attribute 'c': write the values as a list"),
        (lambda: Category("c", buckets=1), "attribute 'c': it can have 2 to 65536 buckets, not 1"),
        (lambda: Tags("t", separator=""), "attribute 't': the separator is empty"),
        (lambda: Tags("t", limit=0), "attribute 't': the limit can be 1 to 32, not 0"),
        (lambda: Declaration(item_attributes=[Number("n"), Flag("n")]), "item_attributes has 'n' twice"),
        (lambda: Declaration(aggregates=["views"]), "aggregates has 'views', which is no Aggregate"),  # type: ignore[list-item]
        (lambda: Declaration(aggregates=[VIEWS, VIEWS]), "two aggregates have the feature 'views_24h': rename one"),
        (
            lambda: Declaration(aggregates=[Aggregate("popularity", "count", ["view"], half_lives=["7d"])]),
            "two aggregates have the feature 'popularity_half_life_7d': rename one",
        ),
        (lambda: Declaration(item_attributes=["brand"]), "item_attributes has 'brand', which is no Number"),  # type: ignore[list-item]
    ],
)
def test_what_cannot_be_declared(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidDeclaration) as raised:
        declare()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "has no DECLARATION"),
        ("DECLARATION = 7", "has no DECLARATION"),
        ("import nothing_of_that_name", "cannot be loaded: ModuleNotFoundError"),
        ("DECLARATION = (", "cannot be loaded: SyntaxError"),
        ("raise SystemExit(3)", "cannot be loaded: SystemExit"),
        ("from reaseq.declaration import Number\nNumber('x', default='y')", "the default 'y' is no number"),
        ("from reaseq.declaration import Number\nNumber('x', unit='g')", "unexpected keyword argument 'unit'"),
    ],
)
def test_module_that_declares_nothing_usable_is_named(tmp_path: Path, source: str, message: str) -> None:
    file = tmp_path / "shop.py"
    file.write_text(source)

    with pytest.raises(InvalidDeclaration) as raised:
        load_declaration(file)
    assert str(file) in str(raised.value) and message in str(raised.value)


def test_missing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDeclaration, match=r"gone\.py cannot be loaded"):
        load_declaration(tmp_path / "gone.py")
    assert load_declaration(None).item_attributes == ()


def test_example_reads_an_item() -> None:
    declaration = load_declaration(EXAMPLE)
    brand, department, materials, weight, organic = declaration.read_item(
        {"brand": "Acme", "department": "Kids", "materials": "wool, silk", "weight_g": "250"}
    )

    assert isinstance(brand, tuple) and department == (3,) and isinstance(materials, tuple) and len(materials) == 2
    assert weight == 250.0 and organic == 0.0


def test_only_a_required_attribute_refuses_an_item() -> None:
    declaration = Declaration(item_attributes=[Number("weight", required=True), Number("height")])

    declaration.check_item({"weight": "2", "height": "tall"})
    with pytest.raises(InvalidRecord, match="the required attribute 'weight' is missing"):
        declaration.check_item({"height": "3"})
    with pytest.raises(InvalidRecord, match="the required attribute 'weight' is no number: 'heavy'"):
        declaration.check_item({"weight": "heavy"})
