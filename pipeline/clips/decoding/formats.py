"""The file formats that count as media, and what other files are instead.

libavformat also opens playlists, scripts and image patterns, and then whatever files or hosts these
name. So it may open the formats of `FORMAT_WHITELIST` and no others. What it recognizes beyond them
is rejected by name, before it reads on.
"""

from __future__ import annotations

import re
from typing import Any

import av
from av.container import InputContainer

from pipeline.clips.rejects import Reason, Reject

HEAD = 512  # bytes of a file by which `refuse_archive` and `reject_for_format` tell

# Names of libavformat's demuxers. None of these opens a second file, as long as external tracks
# of QuickTime files (its option enable_drefs) stay off. Formats whose recordings lie in several
# files (mlv, imf) or that are recognized by their extension alone are left out.
FORMAT_WHITELIST = (
    "mov,matroska,avi,flv,live_flv,kux,mpegts,mpeg,mpegvideo,ogg,asf,wtv,rm,ivr,mxf,gxf,nut,nsv,nuv,"
    "dv,ivf,swf,yuv4mpegpipe,gif,apng,jpegxl_anim,ser,cine,r3d,lxf,dhav,pva,pmp,mtv,ty,mpjpeg,"
    "smjpeg,pdv,moflex,viv,vivo,vividas,ifv,lmlm4,luodat,sdr2,xmv,hnm,filmstrip,frm,derf,"
    "wav,w64,mp3,aac,ac3,ac4,eac3,dts,dtshd,truehd,mlp,loas,flac,aiff,au,amr,amrnb,amrwb,caf,iamf,"
    "ape,wv,tta,tak,mpc,mpc8,oma,adx,aea,aptx,dsf,dss,iff,voc,ircam,nistsphere,pvf,sox,spdif,s337m,"
    "qcp,shn,gsm,codec2,bonk,osq,rka,wavarc,apac,wsd,xwma,sbc,hca,qoa,lc3,act,vqf,mmf,msf,lvf,rso,"
    "wve,xa,tmv,wady,vag,ast,avr,fsb,genh,brstm,bfstm,kvag,epaf,hcom,sds,sdx,svs,nsp,aa,"
    "4xm,bink,binka,smk,roq,flic,anm,thp,usm,film_cpk,idcin,vmd,psxstr,ea,wc3movie,mvi,mv,bfi,c93,rl2,"
    "rpl,siff,bethsoftvid,cdxl,cdg,dfa,dsicin,dxa,gdv,jv,mm,paf,sga,smush,sol,tiertexseq,txd,wsaud,"
    "wsvqa,xvag,yop"
)

ANIMATIONS = {"gif", "apng", "jpegxl_anim"}  # formats that hold one image or several

# Formats that name what they play.
_LISTS = {
    "hls",
    "concat",
    "dash",
    "imf",
    "sdp",
    "rtsp",
    "rtp",
    "sap",
    "vobsub",
    "mlv",
    "lavfi",
}
_IMAGES = {
    "ico",
    "alias_pix",
    "brender_pix",
    "fits",
    "image2",
    "image2pipe",
}  # and every "..._pipe"
# Elementary streams: frames without time stamps and, in most, without a rate. libavformat counts
# them at a made-up rate, if at all. MPEG-1 and 2 state their rate, and so are media.
_RAW = {
    "h264": "H.264",
    "hevc": "HEVC",
    "vvc": "VVC",
    "evc": "EVC",
    "apv": "APV",
    "av1": "AV1",
    "obu": "AV1",
    "m4v": "MPEG-4",
    "mjpeg": "Motion JPEG",
    "mjpeg_2000": "Motion JPEG 2000",
    "ingenient": "Motion JPEG",
    "h261": "H.261",
    "h263": "H.263",
    "vc1": "VC-1",
    "cavsvideo": "AVS",
    "avs2": "AVS2",
    "avs3": "AVS3",
    "dirac": "Dirac",
    "dnxhd": "DNxHD",
    "ipu": "IPU",
}

# How files begin that libavformat does not read.
_ANIMATED = re.escape(bytes(flags for flags in range(256) if flags & 2))
_LIST = "a playlist: it names other files; index those instead"
_UNREAD: tuple[tuple[bytes, Reason, str], ...] = (
    (
        rb"(\xef\xbb\xbf)?\s*(#EXTM3U|\[playlist\]|(?i:<asx)"
        rb"|<\?xml.*<(MPD|SmoothStreamingMedia|playlist)\b)",
        Reason.NOT_MEDIA,
        _LIST,
    ),
    (
        rb"FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|FOVb|\0MRM",
        Reason.STILL_IMAGE,
        "a camera's raw photograph",
    ),
    (
        rb"RIFF....WEBPVP8X....[" + _ANIMATED + rb"]",
        Reason.UNSUPPORTED,
        "an animated WebP image; convert it to a video",
    ),
    (
        rb"....(styp|sidx|moof|emsg|prft)|\x1f\x43\xb6\x75",
        Reason.UNSUPPORTED,
        "a fragment without its init segment; join them first, the init segment in front",
    ),
)

# Brands of the photographs that are kept like films (ISO/IEC 23008-12, AVIF, Canon's CR3), and of
# the image sequences that may be beside them in a file.
_PHOTOGRAPHS = {"mif1", "mif2", "heic", "heix", "heim", "heis", "avif", "avci", "jpeg", "crx "}
_SEQUENCES = {"msf1", "hevc", "hevx", "hevm", "hevs", "avis", "avcs"}


def reject_photograph(container: InputContainer) -> None:
    """Raise a reject for a photograph whose tiles look like the frames of a film."""
    brand = container.metadata.get("major_brand", "")
    if brand not in _PHOTOGRAPHS:
        return
    others = container.metadata.get("compatible_brands", "")
    every = {others[at : at + 4] for at in range(0, len(others), 4)}
    if not every & _SEQUENCES:
        raise Reject(Reason.STILL_IMAGE, f"a photograph (brand {brand.strip()})")


def reject_for_format(error: BaseException, head: bytes) -> Reject | None:
    """What a file is that did not open, as far as its first bytes or libavformat know."""
    for begins, reason, detail in _UNREAD:
        if re.match(begins, head, re.DOTALL):
            return Reject(reason, detail)
    log: Any = error.log if isinstance(error, av.error.FFmpegError) else None
    if log is None or not log[2].startswith("Format not on whitelist"):
        return None
    name: str = log[1]
    if name in _LISTS:
        return Reject(Reason.NOT_MEDIA, _LIST)
    if name in _RAW:
        return Reject(
            Reason.UNSUPPORTED,
            f"a raw {_RAW[name]} stream without a clock; give it one, with its true frame rate: "
            "ffmpeg -framerate 25 -i in out.mp4",
        )
    if name in _IMAGES or name.endswith("_pipe"):
        kind = name.removesuffix("_pipe")
        return Reject(Reason.STILL_IMAGE, "an image" if "image2" in name else f"a {kind} file")
    return Reject(Reason.NOT_MEDIA, f"a {name} file")
