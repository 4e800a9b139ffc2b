"""What the tests of ThingSpeak's API share: recorded conversations, an oracle, client programs."""
