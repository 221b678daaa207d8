"""What the doctor says about the sandbox."""

import pytest

from posttrain.pipelines.commands import doctor
from posttrain.sandbox import tiers


@pytest.mark.parametrize(("tier", "state"), [("A", "ok"), ("B", "ok"), ("C", "bad"), ("none", "bad")])
def test_the_doctor_tells_the_tier_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tier: tiers.Tier, state: str
) -> None:
    report = tiers.TierReport(tier=tier, reason="no namespaces", fix="allow them")
    monkeypatch.setattr(tiers, "probe", lambda: report)
    finding = doctor._sandbox()
    assert (finding.state, finding.text) == (state, f"tier {tier}: no namespaces; for more: allow them")
