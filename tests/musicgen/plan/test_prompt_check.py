"""Prompts that the text encoder cannot read in full are counted while planning, and made."""

from pathlib import Path

import pyarrow as pa
import pytest

from musicgen import embedded
from musicgen.model.text.tokenizer import count_tokens, open_tokenizer
from musicgen.plan import prompt_check
from musicgen.plan.prompt_check import PromptCheck, check_prompts
from tests.musicgen.plan.conftest import Submit

FOLDER = Path(embedded.__file__).parent / "checkpoint"
CASES = {
    "calm piano": PromptCheck(),
    '12" drone, {x} <y> ~ ^ `': PromptCheck(unknown=1),
    "悲伤的钢琴曲": PromptCheck(unknown=1, unreadable=1),
    "грустное пианино": PromptCheck(unknown=1, unreadable=1),
    "🎹🎶": PromptCheck(unknown=1, unreadable=1),
    "calm piano 🎹": PromptCheck(unknown=1),
    "{genre} with a <beat>": PromptCheck(unknown=1),
    "drums " * 600: PromptCheck(cut=1),
    "drums " * 300: PromptCheck(),
    "ドラム " + "drums " * 600: PromptCheck(unknown=1, cut=1),
    "": PromptCheck(),
}


def check(*prompts: str) -> PromptCheck:
    return check_prompts(FOLDER, [pa.table({"prompt": pa.array(prompts, pa.string())})])


@pytest.mark.parametrize("prompt", CASES)
def test_prompts(prompt: str) -> None:
    assert check(prompt, "calm piano") == CASES[prompt]


def test_the_counts_agree_with_the_columns_of_the_index() -> None:
    """What `prompt_unknown` and `prompt_tokens` will say is what the plan has said."""
    tokenizer = open_tokenizer(FOLDER, {})
    for prompt, expected in CASES.items():
        tokens = count_tokens(tokenizer, prompt)
        assert (tokens.unknown > 0, tokens.total > 512) == (expected.unknown > 0, expected.cut > 0), prompt


def test_the_plan_counts_them_and_makes_them(submit: Submit) -> None:
    outcome = submit(
        "prompt\ncalm piano\n悲伤的钢琴曲\ncalm 🎹\n" + "drums " * 600 + "\n", dry_run=True, tokenizer_folder=FOLDER
    )
    assert (outcome.new, outcome.invalid_count) == (4, 0)
    assert outcome.prompts == PromptCheck(unknown=2, unreadable=1, cut=1)
    unknown, cut = outcome.prompts.describe()
    assert unknown.startswith("Prompts with parts that the text encoder does not know (emoji, other scripts): 2; 1 of")
    assert cut.startswith("Prompts that are cut, because the text encoder takes 512 tokens: 1.")


def test_no_more_are_checked_than_take_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_check, "_MOST_CHECKED", 5)
    found = check(*["🎹"] * 9)
    assert found == PromptCheck(unknown=5, unreadable=5, is_partial=True)
    assert "at least 5" in found.describe()[0]


def test_a_checkpoint_without_a_t5_tokenizer_is_not_checked(tmp_path: Path) -> None:
    assert check_prompts(tmp_path, [pa.table({"prompt": ["🎹"]})]) == PromptCheck()
