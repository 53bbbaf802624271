"""Peregrine runs AI agents fast: durable streamed runs over gRPC, parallel tools, real caching."""
