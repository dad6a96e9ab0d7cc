def load(**_: object) -> None:
    raise ConnectionError("the hub cannot be reached\nand here are the details")
