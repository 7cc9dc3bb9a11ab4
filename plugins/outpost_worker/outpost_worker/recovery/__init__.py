"""What a supervisor left: recovered after a crash, cleaned after its end."""
