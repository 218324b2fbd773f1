"""Settings: what may be mixed, and how a refusal reads."""

from dataclasses import replace
from hashlib import sha256

import pytest
from tests.cache.conftest import make_settings

from resact.cache.layout import READ_ME, unseal
from resact.cache.settings import FIRST_RULE, RULE, StoreSettings
from resact.errors import DamagedError, SettingsError, StoreError, UsageError


def test_settings_survive_their_document() -> None:
    for settings in (make_settings(), make_settings("jpeg", fps="source", max_seconds=2.5)):
        assert StoreSettings.from_document(unseal(settings.to_document(), "here"), "here") == settings


def test_a_division_survives_and_where_there_is_none_the_document_is_as_before_there_were_any() -> None:
    settings = make_settings()
    divided = replace(settings, dataset=replace(settings.dataset, videos=None, all_classes=None, division="seed 0"))
    assert StoreSettings.from_document(unseal(divided.to_document(), "here"), "here") == divided
    assert set(unseal(settings.to_document(), "here")["attributes"]["dataset"]) == {
        "name", "videos", "all_classes", "classes", "splits", "flip_safe",
    }  # fmt: skip


def test_a_store_that_names_no_rule_is_of_the_first_and_keeps_its_bytes() -> None:
    old = make_settings(rule=FIRST_RULE)
    document = unseal(old.to_document(), "here")
    assert set(document["attributes"]["decode"]) == {"fps", "short_side", "max_seconds", "scaler", "ffmpeg"}
    assert READ_ME not in document["attributes"]
    assert old.fingerprint == sha256(old.to_document()).hexdigest()
    assert StoreSettings.from_document(document, "here") == old
    assert make_settings().decode.rule == RULE > FIRST_RULE


def test_rules_are_not_mixed() -> None:
    for ours, theirs, age in ((1, 2, "an older"), (2, 1, "a newer")):
        expected = rf"s.zarr was made by rule {ours} .*of {age} resact.* uses rule {theirs} .*need another --store"
        with pytest.raises(SettingsError, match=expected):
            make_settings(rule=ours).require_same(make_settings(rule=theirs), "s.zarr")
    assert make_settings(rule=1).fingerprint != make_settings(rule=2).fingerprint


def test_equal_settings_are_the_same() -> None:
    make_settings().require_same(make_settings(), "store.zarr")
    assert make_settings().fingerprint == make_settings().fingerprint


def test_other_settings_are_refused_with_both_values() -> None:
    settings = make_settings("zstd")
    wanted = make_settings("lz4", fps="25", max_seconds=3.0)
    with pytest.raises(SettingsError) as caught:
        settings.require_same(wanted, "store.zarr")
    message = str(caught.value)
    assert "store.zarr was made with other settings" in message
    assert "--codec: store 'zstd', asked for 'lz4'" in message
    assert "--fps: store '15', asked for '25'" in message
    assert "--max-seconds: store None, asked for 3.0" in message
    assert "short_side" not in message


def test_every_setting_counts() -> None:
    settings = make_settings()
    others = [
        replace(settings, library="numcodecs 0"),
        replace(settings, codec="lz4"),
        replace(settings, dataset=replace(settings.dataset, classes=("Walk", "Jump"))),
        replace(settings, dataset=replace(settings.dataset, flip_safe=True)),
        replace(settings, dataset=replace(settings.dataset, videos=None)),
        replace(settings, dataset=replace(settings.dataset, division="test share 0.3, seed 0")),
        replace(settings, decode=replace(settings.decode, scaler="lanczos")),
        replace(settings, decode=replace(settings.decode, ffmpeg="8")),
    ]
    for other in others:
        with pytest.raises(SettingsError, match="asked for"):
            settings.require_same(other, "store.zarr")
    assert len({s.fingerprint for s in [settings, *others]}) == len(others) + 1


@pytest.mark.parametrize("short_side", [0, 1, 3, 255, -2])
def test_an_odd_or_empty_short_side_is_refused(short_side: int) -> None:
    with pytest.raises(UsageError, match=f"got a short side of {short_side} pixels, expected an even number"):
        make_settings(short_side=short_side)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_no_seconds_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="expected more than 0"):
        make_settings(max_seconds=seconds)


@pytest.mark.parametrize("version", [None, 0, 2])
def test_another_format_is_refused(version: int | None) -> None:
    document = unseal(make_settings().to_document(), "here")
    document["attributes"]["format"] = version
    with pytest.raises(StoreError, match=f"here: store format {version}, this resact reads format 1"):
        StoreSettings.from_document(document, "here")


@pytest.mark.parametrize("key", ["dataset", "decode", "codec", "library"])
def test_incomplete_settings_are_damage(key: str) -> None:
    document = unseal(make_settings().to_document(), "here")
    del document["attributes"][key]
    with pytest.raises(DamagedError, match="here: settings incomplete"):
        StoreSettings.from_document(document, "here")
