"""What people expect above the wire: redirects, authentication, cookies, decoding, forms."""
