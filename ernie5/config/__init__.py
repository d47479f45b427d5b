"""The typed configuration tree: schema, YAML loading with overrides, rules. Imports no Paddle."""
