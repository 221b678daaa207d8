"""Fusion's data without thinking is chosen by a judge's checklists, within a run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from posttrain.stages.data.store import read_rows

from ..kept import CLUSTER

ASKED = "Name three colours."
CHAT = {
    "good": "Red, green and blue, if you please.",
    "rude": "Red, green and blue.",
    "few": "Blue, if you please.",
    "unjudged": "Red, green and grey.",
    "unjudged and few": "Grey.",
}
"""By what becomes of them: `rude` passes the rules, `few` passes the judge."""


def told(body: dict[str, Any]) -> str:
    return "\n".join(str(message["content"]) for message in body["messages"])


def judge(body: dict[str, Any]) -> str:
    """Lists two checks, a colour and a courtesy, and counts which of them hold; of grey it says nothing."""
    text = told(body)
    if listing := re.findall(r"^CHECK ([0-9a-f]{8}): the check$", text, re.MULTILINE):
        return f"CHECK {listing[-1]}: It names blue.\nCHECK {listing[-1]}: It says please."
    tag = re.findall(r"GRADE ([0-9a-f]{8}): N", text)[-1]
    found = re.search(rf"^--- response {tag} begins ---$(.*?)^--- response {tag} ends ---$", text, re.DOTALL | re.M)
    assert found
    if "rey" in found[1]:
        return "I can't say."
    paris = 2 * ("Paris" in found[1])  # every judge is tried before a run
    return f"GRADE {tag}: {paris + ('lue' in found[1]) + ('please' in found[1])}"


def recipe(folder: Path, endpoint: str) -> Path:
    """Queries, answers with thinking, answers without by a data set, and both learned together."""
    rows = [{"id": name, "prompt": ASKED, "response": said} for name, said in CHAT.items()]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = {"use": "judge_checklist", "judge": {"endpoint": endpoint, "model": "judge", "retries": 0}}
    stages = {
        "queries": {"kind": "curate", "prompts": {"from": "builtin:arithmetic", "n": 12}},
        "thinking": {"kind": "sample", "model": "builtin:oracle", "prompts": "queries", "mode": "think", "n": 1},
        "non_thinking": {
            "kind": "sample", "model": "builtin:given", "prompts": "chat.jsonl", "mode": "no_think",
            "rewards": [reward], "filters": [{"use": "checklist", "at_least": 0.8}, "complete"], "limit": None,
        },
        "fusion": {
            "kind": "sft", "model": "builtin:tiny-mini", "steps": 1, "batch_size": 4,
            "data": [{"from": "thinking", "flag": "mixed"}, {"from": "non_thinking", "flag": "mixed"}],
        },
    }  # fmt: skip
    path = folder / "r.yaml"
    cluster = yaml.safe_load(CLUSTER)
    path.write_text(yaml.safe_dump({"name": "r", "base": "builtin:tiny", "cluster": cluster, "stages": stages}))
    return path


def test_fusion_learns_what_judge_and_rules_leave_and_silence_leaves_it_to_the_rules(
    run: Callable[[Path], tuple[int, str]], chat_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = chat_server(judge)
    code, printed = run(recipe(tmp_path, server.endpoint))
    assert code == 0, printed
    (folder,) = (tmp_path / "run/non_thinking").glob("**/funnel.json")
    kept = read_rows(folder.parent / "data.parquet")
    assert {row["id"] if "id" in row else row["origin"].partition("#")[2] for row in kept} == {"good", "unjudged"}
    dropped = {row["id"]: f"{row['reason']}: {row['detail']}" for row in read_rows(folder.parent / "dropped.parquet")}
    assert dropped == {
        "rude": "checklist: the judge says 0.50",
        "few": "checklist: has three items",
        "unjudged and few": "checklist: has three items",
    }
    asked = [text for text in map(told, server.requests) if ASKED in text]
    lists = [text for text in asked if "GRADE" not in text]
    assert len(lists) == 1  # one a query, however many answers it has
    graded = [text for text in asked if "GRADE" in text]
    assert len(graded) == len(CHAT)
    assert all("1. It names blue.\n2. It says please." in text for text in graded)
    assert "fusion (sft): done" in printed
