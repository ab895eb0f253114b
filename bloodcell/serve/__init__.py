"""A local web page and an HTTP interface."""
