"""terraform/ as data, with the expressions that tests evaluate."""

import functools
import re
from pathlib import Path
from typing import Any

import hcl2
from hcl2.utils import SerializationOptions

FOLDER = Path(__file__).parent.parent.parent / "terraform"
ENVIRONMENTS = sorted(path.stem for path in (FOLDER / "environments").glob("*.tfvars"))
PLAIN = SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
ACCOUNT, REGION = "123456789012", "eu-west-1"


@functools.cache
def parsed(file: str) -> dict[str, Any]:
    with (FOLDER / file).open() as lines:
        content: dict[str, Any] = hcl2.load(lines, serialization_options=PLAIN)
    return content


@functools.cache
def blocks(kind: str) -> dict[str, Any]:
    """Return the blocks of a kind in all files by address, e.g. `aws_dynamodb_table.state`."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        for block in parsed(path.name).get(kind, []):
            found |= _addressed(block, levels=2 if kind in ("resource", "data") else 1)
    return found


@functools.cache
def local_values() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        for block in parsed(path.name).get("locals", []):
            found |= block
    return found


def default(variable: str) -> Any:
    return blocks("variable")[variable]["default"]


def _addressed(block: dict[str, Any], levels: int) -> dict[str, Any]:
    if levels == 1:
        return block
    return {f"{kind}.{name}": body for kind, named in block.items() for name, body in named.items()}


class Evaluated:
    """The values of expressions in an environment with these secrets."""

    def __init__(self, environment: str, secrets: list[str]) -> None:
        name = f"serverless-chat-api-{environment}"
        self.parameters = {secret: f"/{name}/{secret}" for secret in secrets}
        self._known = {
            "local.name": name,
            "local.partition": "aws",
            "local.account_id": ACCOUNT,
            "var.region": REGION,
        }
        for address, table in blocks("resource").items():
            if address.startswith("aws_dynamodb_table."):
                called = self.text(table["name"])
                self._known[f"{address}.name"] = called
                self._known[f"{address}.arn"] = (
                    f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{called}"
                )

    def text(self, expression: str) -> str:
        own = re.fullmatch(r'\$\{coalesce\(var\.\w+, "(.+)"\)\}', expression)
        text = own[1] if own else expression
        return re.sub(r"\$\{([a-z_.]+)\}", lambda found: self._known[found[1]], text)

    def texts(self, expression: list[str] | str) -> list[str]:
        """Return a list, or the list of a `for` over the parameters."""
        if isinstance(expression, list):
            return [self.text(each) for each in expression]
        each = re.fullmatch(r'\$\{\[for path in local\.parameters : "(.+)"\]\}', expression)
        assert each, expression
        paths = self.parameters.values()
        return [self.text(each[1].replace("${path}", path)) for path in paths]

    def table(self, address: str) -> str:
        return self._known[f"{address}.name"]

    def bedrock_policy(self, model: str) -> list[dict[str, list[str]]]:
        """Return the statements for a model of Bedrock that is called by its id."""
        (statement,) = blocks("data")["aws_iam_policy_document.bedrock"]["statement"]
        assert statement["resources"].startswith("${concat(local.bedrock_model_arns, ")
        arn = re.search(r'"(arn:[^"]+)"', local_values()["bedrock_model_arns"])
        assert arn
        self._known |= {"local.bedrock_region": REGION, "model": model}
        assert statement["actions"] == "${local.bedrock_actions}"
        return [{"actions": local_values()["bedrock_actions"], "resources": [self.text(arn[1])]}]

    def policy(self) -> list[dict[str, list[str]]]:
        """Return the statements of the function's policy, without the one for the log."""
        document = blocks("data")["aws_iam_policy_document.function"]
        statements = [
            {"actions": each["actions"], "resources": self.texts(each["resources"])}
            for each in document["statement"]
            if each["sid"] != "Log"
        ]
        assert all("condition" not in each for each in document["statement"])
        return statements

    def variables(self) -> dict[str, str]:
        """Return the function's variables, without those of the front and of a tfvars file."""
        function = blocks("resource")["aws_lambda_function.api"]
        expression = function["environment"][0]["variables"]
        merged = re.fullmatch(
            r"\$\{merge\(\{(.+?)\}, \{for name, path in local\.parameters : "
            r'"\$\{name\}_SSM" => path\}, local\.front_variables, local\.bedrock_variables, '
            r"var\.settings\)\}",
            expression,
        )
        assert merged, expression
        pairs = (pair.split(" = ") for pair in merged[1].split(", "))
        fixed = {name: self._known.get(value, value.strip('"')) for name, value in pairs}
        return fixed | {f"{name}_SSM": path for name, path in self.parameters.items()}
