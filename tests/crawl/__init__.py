"""Tests of what crawlers need."""
