"""YAML documents from stdin as one JSON array."""

import json
import sys

import yaml

json.dump([d for d in yaml.load_all(sys.stdin, yaml.CSafeLoader) if d], sys.stdout, default=str)
