"""The version, in one place: packaging, `tollbridge version` and the build-info metric read it here."""

VERSION = "0.1.0"
