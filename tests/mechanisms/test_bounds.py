"""The bounds of what is signed are those of the protocol page, as its second implementation has
them: whoever holds others refuses what the rest of a run takes."""

import pytest

from candor.mechanisms.evidence import claims, examiner, sketch
from candor.mechanisms.ledger import bodies, messages
from candor.mechanisms.payments import bills, credits
from tests.independent import bills as other_bills
from tests.independent import claims as other_claims
from tests.independent import ledger as other_ledger
from tests.independent import rounds as other_rounds


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (bills.BUNDLE_BYTES_MAX, other_bills.BUNDLE_BYTES_MAX),
        (bills.BILL_BYTES_MAX, other_bills.BODY_BYTES_MAX),
        (credits.PAYMENT_MAX, other_bills.PAYMENT_MAX),
        (examiner.ENERGY_MAX, other_bills.ENERGY_MAX),
        (claims.CLAIM_BYTES_MAX, other_claims.CLAIM_BYTES_MAX),
        (bodies.BODY_BYTES_MAX, other_ledger.BODY_BYTES_MAX),
        (messages.RECORDS_MAX, other_ledger.RECORDS_MAX),
        (messages.RECORDS_BYTES_MAX, other_ledger.RECORDS_BYTES_MAX),
        (sketch.TRACE_SIZE, other_rounds.TRACE_SIZE_MAX),
    ],
)
def test_both_implementations_have_the_same_bounds(ours: float, theirs: float) -> None:
    assert ours == theirs
