"""The version of this program: a constant, since looking it up in installed metadata costs more than a whole status."""

VERSION = "0.1.0"
