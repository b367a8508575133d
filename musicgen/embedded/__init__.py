"""The checkpoint that ships inside the package (`checkpoint/`, with its model card), and the melodies of the demo."""
