"""What the tests share: a server that follows a script, certificates, and leak detection."""
