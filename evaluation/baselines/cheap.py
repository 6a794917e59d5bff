"""The baselines that are fitted in seconds: the demo ranks with them live."""

from evaluation.baselines.ease import Ease
from evaluation.baselines.personal_frequency import PersonalFrequency
from evaluation.baselines.purchases import Baseline, Purchases
from evaluation.baselines.tifu_knn import TifuKnn

PERSONAL, EASE, TIFU = "bought before, then weekly sales", "EASE^R, bought before, sales", "TIFU-KNN, sales"


def fit_cheap(purchases: Purchases, items: int) -> dict[str, Baseline]:
    """The baselines by name, fitted on the purchases so far."""
    return {
        PERSONAL: PersonalFrequency(purchases),
        EASE: Ease(purchases, items),
        TIFU: TifuKnn(purchases, items),
    }
