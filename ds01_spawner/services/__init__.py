"""One adapter per outside thing, each with a fake that passes the same contract tests."""
