"""What a trial runs on: its devices, their memory and limits, and the meters that read them."""
