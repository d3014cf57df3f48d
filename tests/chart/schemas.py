"""The schemas that kubeconform reads: Kubernetes' own, out of kubernetes_validate, and
those of custom resource definitions.

Usage: schemas.py INTO FILE…; a field that a schema does not name is an error, as with
`kubectl --validate=strict`.
"""

import json
import pathlib
import sys

import kubernetes_validate
import yaml


def kubernetes(into):
    package = pathlib.Path(kubernetes_validate.__file__).parent
    for version in (package / "kubernetes-json-schema").glob("v*-local-strict"):
        there = into / version.name
        there.mkdir()
        for schema in version.glob("*.json"):
            # They refer to each other by where that package serves them.
            text = schema.read_text().replace('"/api/_definitions.json', '"_definitions.json')
            content = json.loads(text)
            content.pop("$id", None)
            (there / schema.name).write_text(json.dumps(content))


def closed(schema):
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not open_ended:
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return schema


def main(into, *files):
    into = pathlib.Path(into)
    kubernetes(into)
    for file in files:
        for crd in yaml.load_all(pathlib.Path(file).read_text(), yaml.CSafeLoader):
            if not crd or crd["kind"] != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = closed(version["schema"]["openAPIV3Schema"])
                # The API server sees to these itself.
                schema["properties"]["metadata"] = {"type": "object"}
                group = spec["group"].split(".")[0]
                name = f"{spec['names']['kind'].lower()}-{group}-{version['name']}.json"
                (into / name).write_text(json.dumps(schema))


main(*sys.argv[1:])
