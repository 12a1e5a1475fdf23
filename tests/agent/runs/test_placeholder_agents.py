"""Stand-ins make a cluster file of any size that is allowed."""

from candor.agent.runs.placeholder_agents import stand_in_entries


def test_hundreds_of_agents_have_identities_that_somebody_could_have() -> None:
    entries = stand_in_entries([f"a{i}" for i in range(700)])
    assert len({entry.identity for entry in entries}) == 700
    assert entries[126].identity.endswith("7f")
    assert entries[127].identity.endswith("81")  # a key that ends in 80 has a y of 0
