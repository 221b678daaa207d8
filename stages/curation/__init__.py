"""Queries: read from a crawl, told apart from evaluation sets and from each other, judged, measured."""
