"""Does a lie pay, and at which price does none?"""
