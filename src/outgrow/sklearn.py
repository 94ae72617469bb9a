"""scikit-learn estimators whose network finds its own size."""

from outgrow.integrations.estimators import GrowingClassifier, GrowingRegressor

__all__ = ["GrowingClassifier", "GrowingRegressor"]
