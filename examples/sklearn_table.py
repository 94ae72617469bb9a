"""A table with categories and gaps, scikit-learn's way: no hidden_layer_sizes to choose.

python examples/sklearn_table.py
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from outgrow.sklearn import GrowingRegressor


def houses(count: int = 800) -> pd.DataFrame:
    """Make a table: what houses are like, and what they cost."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "area": rng.uniform(40, 250, count),
            "age": rng.integers(0, 100, count).astype(float),
            "heating": pd.Categorical(rng.choice(["gas", "heat pump", "wood"], count)),
            "garden": rng.random(count) < 0.4,
        }
    )
    worth = 3_000 * table["area"] * np.exp(-table["age"] / 80) * (1 + 0.2 * (table["heating"] == "heat pump"))
    table["price"] = worth + 40_000 * table["garden"] + rng.normal(0, 20_000, count)
    table.loc[rng.random(count) < 0.1, "age"] = np.nan
    return table


def main() -> None:
    """Fit, score, and take a smaller size."""
    table = houses()
    train, test = train_test_split(table, random_state=0)
    model = GrowingRegressor(max_params=1_000, missing="median", random_state=0)
    model.fit(train.drop(columns="price"), train["price"])

    print(model.family_.table())
    for fitted in (model, model.at(max_params=200)):
        score = fitted.score(test.drop(columns="price"), test["price"])
        print(f"{fitted.size_.params:,} parameters: R2 {score:.3f} on the test part")


if __name__ == "__main__":
    main()
