"""The wire of the exchange, generated from protos/ by `make protos`; only this file is written by hand."""
