"""The gateway and the supervisor. No torch here."""
