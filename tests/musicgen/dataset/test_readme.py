"""A README that a person has changed: what is theirs stays, what is ours is brought up to date."""

from typing import Any

import pytest
import yaml

from musicgen.dataset.readme import Card, dump_yaml, fence_code, load_yaml, quote_code, read_front_matter
from musicgen.own_checksum import blank_text, check_text


def card(body: str = "5 clips", license: str = "apache-2.0", configs: Any = None, **more: Any) -> Card:
    configs = [{"config_name": "default", "data_files": "huggingface.parquet"}] if configs is None else configs
    matter = {"pretty_name": "Generated music", "license": license, "tags": ["audio", "music"]}
    return Card(matter | {"size_categories": ["n<1K"], "configs": configs} | more, "Generated music", body)


def merged(text: str, new: Card) -> str:
    result = new.merge_into(text)
    assert result is not None
    assert check_text(result.encode()) == "right"
    return blank_text(result)


def test_a_card_alone_is_replaced_as_a_whole():
    assert merged(blank_text(card().to_text()), card("6 clips")) == blank_text(card("6 clips").to_text())
    assert blank_text(card().to_text()).startswith("---\npretty_name: Generated music\n")
    assert merged(blank_text(card().to_text()), card()) == blank_text(card().to_text())


def test_text_outside_the_marks_and_other_keys_stay():
    text = blank_text(card().to_text())
    text = text.replace("# Generated music", "# My album\n\nRecorded at night.").replace("5 clips", "5 clips, I say")
    text = text.replace("tags:\n", "language: en  # mostly\n# my tags\ntags:\n- album\n") + "\n## Thanks\nto all\n"
    text = text.replace("pretty_name: Generated music", "pretty_name: 'Night album'")
    new = merged(text, card("6 clips", size_categories=["1K<n<10K"]))
    assert "5 clips" not in new
    expected = text.replace("5 clips, I say", "6 clips").replace("n<1K", "1K<n<10K")
    assert new == expected


def test_a_license_follows_the_weights_until_it_is_changed():
    new = merged(blank_text(card().to_text()), card(license="cc-by-nc-4.0"))
    assert read_front_matter(new)["license"] == "cc-by-nc-4.0"
    changed = new.replace("license: cc-by-nc-4.0", "license: cc-by-4.0  # asked my lawyer")
    for license in ("cc-by-nc-4.0", "other"):
        changed = merged(changed, card(license=license))
        assert "\nlicense: cc-by-4.0  # asked my lawyer\n" in changed
    without = new.replace("license: cc-by-nc-4.0\n", "")
    assert "license" not in read_front_matter(merged(without, card()))


def test_configurations_of_the_user_stay_beside_ours():
    text = blank_text(card().to_text())
    document = read_front_matter(text)
    mine = {"config_name": "quiet", "data_files": "quiet.parquet"}
    document["configs"].append(mine)
    document["dataset_info"] = {"config_name": "quiet", "splits": []}
    text = text.replace(text.split("---\n")[1], dump_yaml(document))
    ours = [{"config_name": "default", "data_files": ["metadata.parquet", "audio/**"]}]
    new = read_front_matter(merged(text, card(configs=ours)))
    assert new["configs"] == [*ours, mine]
    assert new["dataset_info"] == {"config_name": "quiet", "splits": []}
    info = {"config_name": "default", "features": []}
    new = read_front_matter(merged(text, card(configs=ours, dataset_info=info)))
    assert new["dataset_info"] == [info, {"config_name": "quiet", "splits": []}]


def test_a_key_that_is_no_longer_needed_goes():
    info = {"config_name": "default", "features": [{"name": "flac", "dtype": "audio"}]}
    text = blank_text(card(dataset_info=info).to_text()) + "mine\n"
    new = merged(text, card())
    assert "dataset_info" not in read_front_matter(new)
    assert merged(new, card(dataset_info=info)) == text


def test_line_ends_of_windows_stay():
    text = (blank_text(card().to_text()) + "mine\n").replace("\n", "\r\n")
    new = merged(text, card("6 clips", size_categories=["1K<n<10K"]))
    assert new == (blank_text(card("6 clips", size_categories=["1K<n<10K"]).to_text()) + "mine\n").replace("\n", "\r\n")


def test_front_matter_that_was_deleted_comes_back():
    text = blank_text(card().to_text())
    body = text[text.index("# Generated") :]
    assert merged(body, card("6 clips")) == blank_text(card("6 clips").to_text())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("<!-- musicgen:end -->", ""),
        lambda text: text.replace("<!-- musicgen:begin", "<!-- begin"),
        lambda text: text + "<!-- musicgen:end -->",
        lambda text: text + text,
        lambda text: text.replace("pretty_name: ", "pretty_name: ["),
        lambda text: text.replace("pretty_name:", "- pretty_name:"),
        lambda text: "---\n{license: mit}\n---\n" + text[text.index("# Generated") :],
        lambda text: "# mine\n",
    ],
)
def test_what_cannot_be_told_apart_is_left_alone(change: Any):
    assert card("6 clips").merge_into(change(blank_text(card().to_text()))) is None


@pytest.mark.parametrize(
    "matter",
    [
        "a: |\n  text\n  # no comment\nb: 1\n",
        "configs: [{config_name: mine, data_files: x}]\n",
        "x: &anchor [1, 2]\ny: *anchor\nsize_categories: *anchor\n",
        "size_categories: 10K\n\n\n# the end\n",
        "size_categories:\n- n<1K\n# for the hub\nconfigs:\n  - config_name: default\n    data_files: old.parquet\n"
        "  - config_name: mine\n    data_files: x\nlast: 'yes'",
        "'license': mit\n\"size_categories\":\n  - 1\n",
        "",
        "# only a comment\n",
        "size_categories: [a]\nsize_categories: [b]\n",
        "date: 2026-01-01\nemoji: 🎹\n",
    ],
)
def test_any_front_matter_keeps_the_other_values(matter: str):
    stored = load_yaml(matter)
    text = f"---\n{matter}" + ("" if not matter or matter.endswith("\n") else "\n") + "---\n"
    text += blank_text(card().to_text()).partition("---\n\n")[2]
    new = card("6 clips").merge_into(text)
    if new is None:
        assert "*anchor" in matter or matter.count("size_categories") == 2  # allowed, where keys depend on each other
        return
    updated = yaml.safe_load(new.split("---\n")[1])
    others = stored.keys() - {"size_categories", "configs", "dataset_info"}
    assert {name: updated[name] for name in others} == {name: stored[name] for name in others}
    assert updated["size_categories"] == ["n<1K"]
    names = [config["config_name"] for config in updated["configs"]]
    assert names == (["default", "mine"] if "mine" in matter else ["default"])
    comments = [line for line in matter.splitlines() if line.startswith("#")]
    assert all(line in new.splitlines() for line in comments)


def test_a_text_cannot_leave_its_code() -> None:
    assert quote_code("label") == "`label`"
    assert quote_code("a`b<script>") == "``a`b<script>``"
    assert quote_code("`") == "`` ` ``"
    assert quote_code("a\n# b\x1b[2J") == "`a # b [2J`"
    assert quote_code("<!-- musicgen:end -->") == "`<! -- musicgen:end -->`"
    assert fence_code("a\n```\n# b") == "````\na\n```\n# b\n````"
