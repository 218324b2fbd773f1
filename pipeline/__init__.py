"""Videos to frames: data sets and splits, ffmpeg decoding, the Dask job."""
