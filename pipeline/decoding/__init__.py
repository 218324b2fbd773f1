"""One video to frames, by ffmpeg."""
