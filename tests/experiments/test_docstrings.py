"""The text of the task shift: which docstrings it has, and which of them are held out."""

from experiments.docstrings import docstrings_of, texts_of


def test_docstrings_of_a_module_its_classes_and_functions():
    of_class = 'class A:\n    """Class."""\n    def f(self):\n        """Method."""\n'
    source = f'"""Module."""\n{of_class}\nasync def g():\n    pass\n'
    assert docstrings_of(source) == ["Module.", "Class.", "Method."]
    assert docstrings_of("def (") == []


def test_every_seventh_module_is_held_out(tmp_path):
    for number in range(15):
        (tmp_path / f"m{number:02}.py").write_text(f'"""Text {number}."""\n')
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text('"""No."""\n')
    (tmp_path / "latin.py").write_bytes(b'"""\xff"""\n')
    train, valid = texts_of(tmp_path)
    assert valid == "Text 0.\n\nText 7.\n\nText 14.\n"
    assert train.split("\n\n") == [f"Text {n}." + "\n" * (n == 13) for n in range(15) if n % 7]
