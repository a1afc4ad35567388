"""Where the app's settings come from: defaults, the environment, flags."""

import pytest

from trellis_app.errors import SettingsError
from trellis_app.settings import app_settings
from trellis_app.ui.flags import parse_settings


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRELLIS_PRECISION", raising=False)
    assert app_settings({}).precision == parse_settings([]).precision == "bf16"
    assert app_settings({"TRELLIS_PRECISION": "fp8"}).precision == "fp8"
    monkeypatch.setenv("TRELLIS_PRECISION", "fp8")
    assert parse_settings([]).precision == "fp8"
    assert parse_settings(["--precision", "bf16"]).precision == "bf16"
    with pytest.raises(SettingsError, match="fp4"):
        app_settings({"TRELLIS_PRECISION": "fp4"})
