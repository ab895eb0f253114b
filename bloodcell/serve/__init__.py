"""Serves a model through a local web page and an HTTP API."""
