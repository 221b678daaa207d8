"""What runs inside the room that holds the tests."""
