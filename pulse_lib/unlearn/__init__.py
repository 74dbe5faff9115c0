"""Making a target forget people: what a task is, one request, one shot, requests one after another."""
