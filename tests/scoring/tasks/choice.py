from datasets import Dataset, DatasetDict


def load(**_: object) -> DatasetDict:
    rows = [
        {"a": a, "b": b, "answer": [3, 5, 9].index(a + b) if a + b in (3, 5, 9) else 0}
        for a in range(1, 9)
        for b in range(1, 5)
    ]
    return DatasetDict({"test": Dataset.from_list(rows)})
