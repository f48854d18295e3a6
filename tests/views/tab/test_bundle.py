from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_adapt.views.report.page import _STATIC
from lightning_adapt.views.tab.bundle import as_module, bundle
from lightning_adapt.views.tab.static_files import FOLDER


def test_every_module_of_the_front_end_is_there_once_and_after_what_it_needs():
    text = bundle(_STATIC / "report.js")
    places = {
        name: text.index(f'modules["{name}"] = ')
        for name in ("dom.js", "charts.js", "grid.js", "app.js", "report.js")
    }
    assert sorted(places, key=places.__getitem__)[-2:] == ["app.js", "report.js"]
    assert text.count('modules["dom.js"] = ') == 1
    assert "TensorBoard does not answer" not in text  # its source is not needed


def test_what_is_not_understood_is_refused(tmp_path: Path):
    file = tmp_path / "a.js"
    for code in ("export default 1;\n", 'export { x } from "./b.js";\n', 'import "./b.js";\n'):
        file.write_text(code)
        with pytest.raises(ValueError, match=r"cannot be bundled: a\.js: (ex|im)port"):
            bundle(file)


def test_what_would_end_the_script_is_refused(tmp_path: Path):
    file = tmp_path / "a.js"
    file.write_text('export const x = "</script>";\n')
    with pytest.raises(ValueError, match="must not hold '</script'"):
        bundle(file)


def test_a_module_exports_what_its_first_file_does_and_needs_no_other():
    text = as_module(FOLDER / "index.js")
    assert text.splitlines()[-1] == 'export const { render } = modules["index.js"];'
    assert not re.search(r"^import\b", text, re.M)
    for path in FOLDER.glob("*.js"):
        assert text.count(f'modules["{path.name}"] = ') == 1
